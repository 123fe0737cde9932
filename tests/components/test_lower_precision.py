"""Decoders of two bytes, of 8 and of 4 bits: what they say, what they keep, and what they take meanwhile."""

import weakref

import pytest
import torch

from pam_kit.components.decoders import quantised
from pam_kit.components.decoders.causal_lm import CausalLM
from pam_kit.errors import PamKitError

WIDTH = 32


def test_weights_of_half_the_size(decoder, asked, region_embeddings, read_in_parts):
    """In bfloat16 sums depend on the shapes, so words may turn; the cache is of the weights' type and nobody fails."""
    made = decoder(dtype="bfloat16", spread=5)
    reading = read_in_parts(made, region_embeddings())
    assert {t.dtype for name, t in reading.tensors().items() if "." in name} == {torch.bfloat16}
    found, expected = (
        answers(asked(), 1)[0] for answers in (reading.answer, lambda *a: made.generate(region_embeddings(), *a))
    )
    assert found.text == expected.text and found.score == pytest.approx(expected.score, abs=0.05)


@pytest.mark.parametrize("precision", ["bfloat16", "int8", "nf4"])
def test_a_decoder_of_lower_precision_answers_nearly_as_before(
    precision, decoder, asked, region_embeddings, read_in_parts, assert_same
):
    pytest.importorskip("bitsandbytes", reason="quantised weights need pam-kit[quantize]")
    made = decoder(num_key_value_heads=2, spread=5)
    before = sum(p.numel() * p.element_size() for p in made.layers()[0].parameters())
    expected = read_in_parts(made, region_embeddings()).answer(asked(), 1)
    made.lower_precision(precision)
    reading = read_in_parts(made, region_embeddings())
    found = reading.answer(asked(), 1)
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=0.15)
    share = sum(p.numel() * p.element_size() for p in made.layers()[0].parameters()) / before
    assert share == pytest.approx({"bfloat16": 0.5, "int8": 0.25, "nf4": 0.125}[precision], abs=0.03)
    assert_same(found, made.generate(region_embeddings(), asked(), 1)) if precision == "nf4" else None


def test_what_is_quantised_already_is_not_quantised_again(pretrained_decoder):
    pytest.importorskip("bitsandbytes", reason="quantised weights need pam-kit[quantize]")
    _, folder = pretrained_decoder()
    with pytest.raises(PamKitError, match="quantised already.*decoder.quantize=int8"):
        CausalLM(str(folder), template="plain", quantize="int8").lower_precision("nf4")


@pytest.mark.parametrize("precision", ["int8", "nf4", "bfloat16"])
def test_adapters_keep_what_they_learned(precision, pretrained_decoder):
    """Layers are quantised and the adapters beside them are not: they turn logits as they do beside whole weights."""
    pytest.importorskip("peft", reason="adapters need pam-kit[lora]")
    pytest.importorskip("bitsandbytes", reason="quantised weights need pam-kit[quantize]")
    _, folder = pretrained_decoder()
    made = CausalLM(str(folder), template="plain", lora_rank=4).eval()
    given = torch.randn(2, 9, WIDTH, generator=torch.Generator().manual_seed(0))

    def adapters() -> dict[str, torch.Tensor]:
        return {name: part.detach().clone() for name, part in made.named_parameters() if ".lora_" in name}

    @torch.no_grad()
    def effect() -> torch.Tensor:
        """(2, 9, V): logits with trained adapters less those with new ones."""
        learned = {name: part for name, part in made.named_parameters() if ".lora_B." in name}
        found = []
        for size in (0.0, 0.5):
            for number, part in enumerate(learned.values()):
                part.copy_(size * torch.randn(part.shape, generator=torch.Generator().manual_seed(number)))
            found.append(made.lm(inputs_embeds=given.to(made.lm.dtype)).logits.float())
        return found[1] - found[0]

    expected, before = effect(), adapters()
    made.lower_precision(precision)
    after = adapters()
    assert after.keys() == before.keys() and len(after) == 2 * 7 * 2
    if precision != "bfloat16":
        assert all(torch.equal(after[name], before[name]) for name in before)
        kinds = {type(layer.get_base_layer()).__name__ for layer in made.lm.modules() if hasattr(layer, "lora_A")}
        assert kinds == {{"int8": "Linear8bitLt", "nf4": "Linear4bit"}[precision]}
    found = effect()
    # Random weights of this width, which differ by machine, lose much in 4 bits; what adapters lose is seen above.
    assert torch.cosine_similarity(found.flatten(), expected.flatten(), 0) > (0.6 if precision == "nf4" else 0.99)
    assert found.norm() == pytest.approx(float(expected.norm()), rel=0.15)


@torch.no_grad()
def test_a_lowered_decoder_is_the_one_that_was_loaded_so_also_behind_many_positions(pretrained_decoder):
    """Rotary frequencies stay in four bytes; in two, words a thousand positions on would be turned otherwise."""
    _, folder = pretrained_decoder()
    loaded = CausalLM(str(folder), template="plain", dtype="bfloat16").eval()
    lowered = CausalLM(str(folder), template="plain").eval()
    lowered.lower_precision("bfloat16")
    own, others = (dict(made.lm.named_buffers()) for made in (lowered, loaded))
    assert {name: part.dtype for name, part in own.items()} == {name: part.dtype for name, part in others.items()}
    assert all(torch.equal(own[name], others[name]) for name in others) and own
    embeddings = torch.randn(1, 1040, WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16()
    logits = [made.lm(inputs_embeds=embeddings).logits[:, 1000:] for made in (lowered, loaded)]
    assert torch.equal(*logits)
    lowered.lm.base_model.rotary_emb.inv_freq = lowered.lm.base_model.rotary_emb.inv_freq.bfloat16().float()
    assert not torch.equal(lowered.lm(inputs_embeds=embeddings).logits[:, 1000:], logits[0])


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_layers_are_quantised_one_after_the_other(precision, decoder, monkeypatch):
    """When the next layer is made, nobody holds the whole weights of those before."""
    pytest.importorskip("bitsandbytes", reason="quantised weights need pam-kit[quantize]")
    made, whole, alive = decoder(), [], []
    quantise = quantised._quantised_layer

    def watched(layer, *arguments):
        alive.append(sum(weight() is not None for weight in whole))
        whole.append(weakref.ref(layer.weight))
        return quantise(layer, *arguments)

    monkeypatch.setattr(quantised, "_quantised_layer", watched)
    made.lower_precision(precision)
    assert len(alive) == 2 * 7 and set(alive) == {0}


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "share"), [("nf4", 0.35), ("int8", 0.45), ("bfloat16", 0.6)])
def test_a_gpu_never_holds_the_decoder_as_it_was(precision, share, decoder, asked):
    """The most that is taken on the way there, of what the weights take in four bytes."""
    pytest.importorskip("bitsandbytes", reason="quantised weights need pam-kit[quantize]")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    made = decoder(hidden_size=1024, num_layers=8, intermediate_size=4096)
    size = sum(p.numel() * p.element_size() for p in made.parameters())
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    made.lower_precision(precision, torch.device("cuda"))
    assert {p.device.type for p in made.parameters()} == {"cuda"}
    assert torch.cuda.max_memory_allocated() - before < share * size
    assert made.generate([torch.randn(11, 1024, device="cuda")], asked((0,)), 3)
