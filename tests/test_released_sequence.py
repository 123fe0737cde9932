"""Our parts with the released PAM's weights make the released sequences, probabilities, losses and gradients.

Every sequence of the golden data starts from the features that its stub of a vision tower returned.
"""

import json
from dataclasses import dataclass

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from pam_kit.components.decoders.causal_lm import CausalLM
from pam_kit.components.decoders.conversation import NO_LABEL
from pam_kit.components.perceivers.semantic_perceiver import SemanticPerceiver
from pam_kit.components.projectors.pixel_shuffle_mlp import PixelShuffleMlp
from pam_kit.contracts import ProjectedTokens, Questions, RegionFeatures
from pam_kit.model import RegionPrefix

PREFIX_KEYS = {
    "visual_newline": "model.image_newline",
    "semantic_newline": "model.semT_newline",
    "frame_newline": "model.frame_newline",
}
IMAGES = (
    "image_batch2_hw16_full",
    "image_batch2_hw64",
    "image_leftpad_hw8",
    "image_plus_textonly_hw8",
    "image_truncated_hw16",
)
VIDEOS = ("video_20frames_hw16_full", "video_20frames_hw64")


def fill(golden, seed: int, module: torch.nn.Module, key_of) -> None:
    state = module.state_dict()
    module.load_state_dict({name: golden.weight(seed, key_of(name), value.shape) for name, value in state.items()})


def released_decoder(golden, seed: int, given: dict, folder) -> CausalLM:
    """The released language model, saved as Hugging Face does with the golden tokenizer, and read as anybody's."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "rms_norm_eps", "max_position_embeddings")
    rope = {"rope_type": "default", "rope_theta": given["rope_theta"]}
    model = Qwen2ForCausalLM(
        Qwen2Config(**{n: given[n] for n in names}, rope_parameters=rope, tie_word_embeddings=True)
    )
    fill(golden, seed, model, lambda name: name.replace("lm_head", "model.embed_tokens"))
    model.save_pretrained(folder)
    for file in (golden.folder / "public/tiny_tokenizer").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return CausalLM(str(folder), supervision="released", max_positions=given["tokenizer_model_max_length"]).eval()


@dataclass
class Case:
    """A golden sequence, and our parts with its weights."""

    expected: dict
    about: dict
    config: dict
    parts: torch.nn.ModuleDict
    questions: Questions
    frames: list[list[str]]
    golden: object

    def prefix(self) -> list[torch.Tensor]:
        """The embeddings of every region, (L, D) each."""
        made, kind = [], next(self.parts.parameters()).dtype
        for names in self.frames:
            tokens = [self._tokens(name, place > 0, kind) for place, name in enumerate(names)]
            made.append(self.parts["prefix"](tokens[0] if len(tokens) == 1 else tokens)[0])
        return made

    def _tokens(self, name: str, later: bool, kind: torch.dtype) -> ProjectedTokens:
        seed, side = int(self.about["seed"]), int(self.about["hw"])
        image = self.golden.input(seed, f"mid_image_embed.{name}", (1, 256, side, side)).to(kind)
        mask_tokens = self.golden.input(seed, f"mid_mask_tokens_out.{name}", (1, 2, 256)).to(kind)
        regions = RegionFeatures(image, image, mask_tokens, mask_tokens, *[torch.empty(0)] * 6)
        return self.parts["projector"](self.parts["perceiver"](regions), later)


@pytest.fixture
def case(golden, released_name, tmp_path):
    def build(name: str) -> Case:
        expected, about = golden.load(f"sequence/{name}")
        seed, config = int(about["seed"]), json.loads(about["config"])
        decoder = released_decoder(golden, seed, config, tmp_path)
        perceiver = SemanticPerceiver(256)
        projector = PixelShuffleMlp(256, decoder.embed_dim, ratio=2, later_ratio=4, token_order="column")
        prefix = RegionPrefix(decoder.embed_dim, has_semantic=True, has_frames=True)
        fill(golden, seed, perceiver, lambda key: f"model.vision_resampler.{released_name(key)}")
        fill(golden, seed, projector, released_projector_key)
        fill(golden, seed, prefix, PREFIX_KEYS.get)
        parts = torch.nn.ModuleDict(
            {"perceiver": perceiver, "projector": projector, "prefix": prefix, "decoder": decoder}
        )
        return Case(expected, about, config, parts, *questions_of(golden, about), golden)

    return build


def questions_of(golden, about: dict) -> tuple[Questions, list[list[str]]]:
    """The questions, and the frames whose tokens each region is read from."""
    turns = json.loads(about["conversations"])
    human, said = ([turn[place]["value"] for turn in turns] for place in (0, 1))
    regions = [row if text.startswith("<image>") else -1 for row, text in enumerate(human)]
    frames = json.loads(about["images"])
    if about["type"] == "video":
        sampling = json.loads((golden.folder / "public/sequence/frame_sampling.json").read_text(encoding="utf-8"))
        frames = [[names[i] for i in sampling[str(len(names))]] for names in frames]
    asked = [text.removeprefix("<image>\n") for text in human]
    return Questions(torch.tensor(regions), asked, said, [], []), frames


def released_projector_key(name: str) -> str:
    if name.startswith("narrow."):
        return f"model.vision_resampler.{name.replace('narrow', 'proj')}"
    return f"model.mm_projector_{name}".replace("visual", "img").replace("semantic", "semT")


@pytest.mark.parametrize("name", [*IMAGES, *VIDEOS])
def test_from_region_features_to_the_loss(case, name):
    made = case(name)
    decoder, expected = made.parts["decoder"], made.expected
    with torch.no_grad():
        prefix = made.prefix()
        found = decoder.sequences(prefix, made.questions, made.config["tokenizer_padding_side"])
        loss = decoder(prefix, made.questions)
        mask = found.attention_mask
        logits = decoder.lm(inputs_embeds=expected["inputs_embeds"], attention_mask=mask.long()).logits
    assert torch.equal(mask, expected["attention_mask"].bool())
    assert torch.equal(found.labels, expected["labels"])
    torch.testing.assert_close(found.embeddings, expected["inputs_embeds"], atol=1e-5, rtol=0)
    # From the released embeddings: the released logits are themselves up to 1.2e-5 away from those in 64-bit, so a
    # difference of 1e-5 says something about the language model alone.
    rows = expected.get("logits_row_index", torch.arange(mask.shape[1]))
    released = expected["logits"] if "logits" in expected else expected["logits_rows"]
    torch.testing.assert_close(logits[:, rows][mask[:, rows]], released[mask[:, rows]], atol=1e-5, rtol=0)
    targets = int((found.labels[:, 1:] != NO_LABEL).sum())
    if name == "image_leftpad_hw8":
        # The first word of the short row is told from padding there: one target more, and a loss near this one.
        assert loss.loss.item() == pytest.approx(expected["loss"].item(), abs=0.2)
        assert int(loss.num_tokens) == targets - 1
    else:
        assert loss.loss.item() == pytest.approx(expected["loss"].item(), abs=1e-5)
        assert int(loss.num_tokens) == targets


@pytest.mark.parametrize("name", ["image_batch2_hw16_full", "image_leftpad_hw8", "video_20frames_hw16_full"])
def test_from_region_features_to_the_logits(case, name):
    """Two roundings meet here: that of the released computation and ours."""
    made = case(name)
    with torch.no_grad():
        found = made.parts["decoder"].sequences(made.prefix(), made.questions, made.config["tokenizer_padding_side"])
        output = made.parts["decoder"].lm(inputs_embeds=found.embeddings, attention_mask=found.attention_mask.long())
    mask = found.attention_mask
    torch.testing.assert_close(output.logits[mask], made.expected["logits"][mask], atol=3e-5, rtol=0)


GRADIENTS = {
    "model.image_newline": "prefix.visual_newline",
    "model.semT_newline": "prefix.semantic_newline",
    "model.frame_newline": "prefix.frame_newline",
    "model.mm_projector_img.2.bias": "projector.visual.2.bias",
    "model.mm_projector_semT.2.bias": "projector.semantic.2.bias",
    "model.vision_resampler.sem_tokens.weight": "perceiver.semantic_tokens",
}


@pytest.mark.parametrize("name", ["image_batch2_hw16_full", "video_20frames_hw16_full"])
def test_gradients_of_the_released_loss(case, released_name, name):
    """In 64 bits: a unit of the perceiver lies so near its ReLU's bend that in fp32 its side depends on the CPU.

    The golden lengths were added up in fp32, those of millions of numbers with an error of up to 3e-4.
    """
    made = case(name)
    made.parts.double()
    made.parts["decoder"](made.prefix(), made.questions).loss.backward()
    own = dict(made.parts.named_parameters())
    stored = {key.removeprefix("grad."): value for key, value in made.expected.items() if key.startswith("grad.")}
    for key, value in stored.items():
        grad = own[GRADIENTS[key]].grad.float()
        torch.testing.assert_close(grad, value, atol=1e-5, rtol=0, msg=lambda m, k=key: f"{k}: {m}")
    norms = json.loads(made.about["grad_norms"])
    assert {released_key(name, released_name) for name in own} == set(norms)
    for key, parameter in own.items():
        norm, grad = norms[released_key(key, released_name)], parameter.grad
        if norm is None:
            assert grad is None or not grad.any()
        else:  # keys' biases change nothing, so that their gradients are nothing but rounding
            rel = 1e-3 if grad.numel() > 1_000_000 else 1e-4
            assert grad.norm().item() == pytest.approx(norm, rel=rel, abs=1e-6), key


def released_key(name: str, released_name) -> str:
    part, _, key = name.partition(".")
    if part == "decoder":
        return key.removeprefix("lm.")
    if part == "prefix":
        return PREFIX_KEYS[key]
    return released_projector_key(key) if part == "projector" else f"model.vision_resampler.{released_name(key)}"
