"""LoRA adapters and quantised weights in a small decoder: who learns, what is stored, what merging leaves."""

import sys

import pytest
import torch
from safetensors.torch import load_model, save_model
from transformers import AutoModelForCausalLM

from pam_kit.components.decoders.causal_lm import CausalLM
from pam_kit.contracts import Questions
from pam_kit.errors import CheckpointError, MissingPackageError, PamKitError, RecipeError
from pam_kit.weights import without_pretrained_weights

SIZES = dict(hidden_size=32, num_layers=2, num_heads=4, num_key_value_heads=2, intermediate_size=64, vocab_size=320)
KINDS = (None, "nf4", "int8")
# int8 products are computed in 16-bit.
TOLERANCE = {None: 1e-5, "nf4": 1e-5, "int8": 2e-2}

pytest.importorskip("peft", reason="adapters need pam-kit[lora]")


@pytest.fixture
def adapted(pretrained_decoder):
    """``adapted(quantize=None, **arguments)``: a decoder with adapters on the pretrained tiny Qwen2."""

    def build(quantize=None, **arguments) -> CausalLM:
        _, folder = pretrained_decoder()
        torch.manual_seed(1)
        given = {"lora_rank": 4, "template": "plain", **SIZES, **arguments}
        return CausalLM(str(folder), quantize=quantize, **given).eval()

    return build


def asked() -> Questions:
    answers = ["cup", "A red cup that stands left of a ball.", "杯子"]
    return Questions(torch.tensor([0, 1, 2]), ["What?"] * 3, answers, ["caption"] * 3, ["en"] * 3)


def prefix() -> torch.Tensor:
    return torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0))


def train(made: CausalLM, steps: int = 8) -> list[float]:
    made.train()
    optimizer = torch.optim.Adam([p for p in made.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(steps):
        loss = made(prefix(), asked()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    made.eval()
    return losses


def values(made: CausalLM) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in made.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_alone_learn_and_merging_changes_no_answer(adapted, kind):
    made = adapted(kind)
    before = values(made)
    learning = {name for name, p in made.named_parameters() if p.requires_grad}
    assert learning == {name for name in before if ".lora_" in name} and len(learning) == 2 * 7 * 2
    losses = train(made)
    assert losses[-1] < 0.8 * losses[0]
    after = values(made)
    assert {name for name in before if not torch.equal(before[name], after[name])} == learning

    with torch.no_grad():
        expected, answers = made(prefix(), asked()).per_question, made.generate(prefix(), asked(), 5)
        assert len(answers) == 3 and len(made.layers()) == 2
        made.merge_adapters()
        found = made(prefix(), asked()).per_question
    torch.testing.assert_close(found, expected, atol=TOLERANCE[kind], rtol=0)
    assert {type(part) for part in made.layers()[0].mlp.children() if hasattr(part, "weight")} == {torch.nn.Linear}
    assert all(p.requires_grad and p.dtype == torch.float32 for p in made.parameters())
    with pytest.raises(PamKitError, match="no adapters to merge"):
        made.merge_adapters()


def test_new_adapters_change_nothing(adapted, pretrained_decoder):
    _, folder = pretrained_decoder()
    with torch.no_grad():
        plain = CausalLM(str(folder), template="plain").eval()(prefix(), asked()).per_question
        assert torch.equal(adapted()(prefix(), asked()).per_question, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_are_a_plain_folder_for_anybody(adapted, tmp_path, kind):
    made = adapted(kind)
    train(made, 2)
    made.merge_adapters()
    made.lm.save_pretrained(tmp_path / "merged")
    made.tokenizer.save_pretrained(tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        logits = plain(inputs_embeds=prefix()).logits
        torch.testing.assert_close(logits, made.lm(inputs_embeds=prefix()).logits)
    with torch.no_grad():
        again = CausalLM(str(tmp_path / "merged"), template="plain", **SIZES).eval()(prefix(), asked()).loss
        torch.testing.assert_close(again, made(prefix(), asked()).loss)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_and_read_again(adapted, tmp_path, kind):
    """A quantised decoder stores its adapters alone, one of plain weights everything; both come back the same."""
    made = torch.nn.ModuleDict({"part": adapted(kind)})
    train(made["part"], 3)
    state = made.state_dict()
    assert all(".lora_" in key for key in state) == (kind is not None)
    save_model(made, str(tmp_path / "weights.safetensors"))
    with without_pretrained_weights():
        other = torch.nn.ModuleDict({"part": adapted(kind)})
    made["part"].save_tokenizer(str(tmp_path / "tokenizer"))
    other["part"].load_tokenizer(str(tmp_path / "tokenizer"))
    missing, unexpected = load_model(other, str(tmp_path / "weights.safetensors"), strict=False)
    assert not missing and not unexpected
    with torch.no_grad():
        expected, found = (m["part"](prefix(), asked()).per_question for m in (made, other.eval()))
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_an_adapter_that_is_missing_is_missed(adapted):
    made = adapted("nf4")
    state = made.state_dict()
    lost = state.popitem()[0]
    assert made.load_state_dict(state, strict=False).missing_keys == [lost]


@pytest.mark.parametrize(("targets", "layers"), [(["q_proj", "v_proj"], 2), (["down_proj"], 1)])
def test_targets(adapted, targets, layers):
    made = adapted(lora_targets=targets)
    learning = [name for name, p in made.named_parameters() if p.requires_grad]
    assert len(learning) == 2 * layers * 2 and all(any(f".{t}." in name for t in targets) for name in learning)


def test_a_target_that_is_no_layer_is_refused(adapted):
    with pytest.raises(RecipeError, match="no layer is called query; there are down_proj, gate_proj, k_proj"):
        adapted(lora_targets=["q_proj", "query"])


def test_scale_is_alpha_over_rank(adapted):
    """The change of a layer's weight is alpha / rank times the product of the two small matrices."""
    made = adapted(lora_alpha=12, lora_rank=3)
    layer = made.layers()[0].mlp.up_proj
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(up)
    before, change = layer.base_layer.weight.detach().clone(), 4 * (up @ down).detach()
    made.merge_adapters()
    torch.testing.assert_close(made.layers()[0].mlp.up_proj.weight.detach(), before + change)


def test_dropout_acts_in_training_only(adapted):
    made = adapted(lora_dropout=0.5)
    for name, p in made.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(p)
    with torch.no_grad():
        still = [made(prefix(), asked()).loss for _ in range(2)]
        made.train()
        moving = [made(prefix(), asked()).loss for _ in range(2)]
    assert still[0] == still[1] and moving[0] != moving[1]


def test_adapters_on_random_weights_follow_a_saved_configuration(adapted, tmp_path):
    """A run folder is read into a model built from sizes, which has to be made anew with another rope base."""
    made = adapted()
    made.save_tokenizer(str(tmp_path / "saved"))
    rebuilt = CausalLM(lora_rank=4, template="plain", **SIZES)
    rebuilt.load_tokenizer(str(tmp_path / "saved"))
    assert rebuilt.state_dict().keys() == made.state_dict().keys()
    rebuilt.load_state_dict(made.state_dict())
    assert {n for n, p in rebuilt.named_parameters() if p.requires_grad} == {
        n for n, p in made.named_parameters() if p.requires_grad
    }
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(prefix(), asked()).loss, made(prefix(), asked()).loss)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantised_weights_alone_are_frozen_but_answer(adapted, kind):
    made = adapted(kind, lora_rank=0)
    assert made.frozen and not any(p.requires_grad for p in made.parameters())
    assert {p.dtype for p in made.layers()[0].mlp.up_proj.parameters()} == {
        {"nf4": torch.uint8, "int8": torch.int8}[kind]
    }
    assert not made.state_dict(), "there is nothing that the folder does not hold"
    near = adapted(lora_rank=0)
    assert not near.frozen
    with torch.no_grad():
        losses = [m(prefix(), asked()).loss.item() for m in (made, near)]
    assert losses[0] == pytest.approx(losses[1], rel=0.25) and losses[0] != losses[1]
    # Gradients pass through to what makes the prefix.
    given = prefix().requires_grad_()
    made(given, asked()).loss.backward()
    assert given.grad.abs().sum() > 0


def test_4_bit_weights_stay_as_they_are_where_a_cpu_could_pack_them_another_way(adapted, monkeypatch):
    """bitsandbytes asks the CPU for AVX512-BF16 when it makes a layer, and packs at the layer's first answer."""
    lowered = adapted(lora_rank=0)
    expected = adapted("nf4", lora_rank=0).generate(prefix(), asked(), 5)
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    lowered.lower_precision("nf4")
    for made in (adapted("nf4", lora_rank=0), lowered):
        stored = [p.clone() for p in made.layers()[0].parameters()]
        assert made.generate(prefix(), asked(), 5) == expected
        assert all(map(torch.equal, stored, made.layers()[0].parameters()))


def test_int8_says_nothing_at_every_product(adapted, caplog):
    with torch.no_grad():
        adapted("int8")(prefix(), asked())
    assert not caplog.records


def test_quantised_weights_come_from_a_folder():
    with pytest.raises(RecipeError, match="decoder.quantize=nf4 needs pretrained weights: give decoder.path"):
        CausalLM(quantize="nf4", **SIZES)


def test_a_folder_that_has_changed_since_is_noticed(adapted, tmp_path):
    made = adapted("nf4")
    made.lm.config.rope_parameters["rope_theta"] = 5e5
    made.save_tokenizer(str(tmp_path))
    with pytest.raises(CheckpointError, match="not those that this run was quantised from"):
        adapted("nf4").load_tokenizer(str(tmp_path))


def test_quantised_sizes_can_be_planned_without_weights(adapted):
    with torch.device("meta"), without_pretrained_weights():
        made = CausalLM("nobody/no-such-model", quantize="nf4", lora_rank=4, **SIZES)
    assert {p.device.type for p in made.parameters()} == {"meta"}
    real = adapted("nf4")
    learning = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (made, real)]
    assert learning[0] == learning[1] > 0


def test_without_peft_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingPackageError, match=r'pip install "pam-kit\[lora\]"'):
        CausalLM(lora_rank=2, **SIZES)
