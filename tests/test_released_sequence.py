"""Our parts with the released PAM's weights make the released sequence and the released probabilities."""

import json

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from pam_kit.components.decoders.causal_lm import CausalLM
from pam_kit.components.perceivers.semantic_perceiver import SemanticPerceiver
from pam_kit.components.projectors.pixel_shuffle_mlp import PixelShuffleMlp
from pam_kit.contracts import Questions, RegionFeatures
from pam_kit.model import RegionPrefix

PREFIX_KEYS = {"visual_newline": "model.image_newline", "semantic_newline": "model.semT_newline"}


def released_projector_key(name: str) -> str:
    return f"model.mm_projector_{name}".replace("visual", "img").replace("semantic", "semT")


def fill(golden, seed: int, module: torch.nn.Module, key_of) -> None:
    state = module.state_dict()
    module.load_state_dict({name: golden.weight(seed, key_of(name), value.shape) for name, value in state.items()})


def released_decoder(golden, seed: int, about: dict, folder) -> CausalLM:
    """The released language model, saved as Hugging Face does with the golden tokenizer, and read as anybody's."""
    given = json.loads(about["config"])
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
    return CausalLM(str(folder), template="chatml").eval()


@pytest.mark.parametrize("name", ["image_batch2_hw16_full", "image_batch2_hw64"])
def test_from_region_features_to_logits(golden, released_name, tmp_path, name):
    """Same embeddings in the same order, and the same probability of every word of the answer."""
    expected, about = golden.load(f"sequence/{name}")
    seed, side = int(about["seed"]), int(about["hw"])
    decoder = released_decoder(golden, seed, about, tmp_path)
    perceiver, projector = SemanticPerceiver(256), PixelShuffleMlp(256, decoder.embed_dim, ratio=2, token_order="column")
    prefix = RegionPrefix(decoder.embed_dim, has_semantic=True)
    fill(golden, seed, perceiver, lambda key: f"model.vision_resampler.{released_name(key)}")
    fill(golden, seed, projector, released_projector_key)
    fill(golden, seed, prefix, PREFIX_KEYS.get)
    ids = [entry for row in json.loads(about["images"]) for entry in row]
    image = torch.cat([golden.input(seed, f"mid_image_embed.{i}", (1, 256, side, side)) for i in ids])
    mask_tokens = torch.cat([golden.input(seed, f"mid_mask_tokens_out.{i}", (1, 2, 256)) for i in ids])
    regions = RegionFeatures(image, image, mask_tokens, mask_tokens, *[torch.empty(0)] * 6)

    turns = json.loads(about["conversations"])
    human = [turn[0]["value"].removeprefix("<image>\n") for turn in turns]
    questions = Questions(torch.arange(len(ids)), human, [turn[1]["value"] for turn in turns], [], [])
    seen = {}
    decoder.lm.register_forward_pre_hook(lambda _m, _a, given: seen.update(given), with_kwargs=True)
    with torch.no_grad():
        out = decoder(prefix(projector(perceiver(regions))), questions)

    lengths = expected["attention_mask"].sum(1).tolist()
    for row, (length, answer) in enumerate(zip(lengths, questions.answers, strict=True)):
        # The released sequence has one line break more, after the end of the answer.
        own = seen["inputs_embeds"][row, : length - 1]
        torch.testing.assert_close(own, expected["inputs_embeds"][row, : length - 1], atol=1e-4, rtol=0)
        if "logits" in expected:
            said = torch.tensor(decoder.tokenizer(f"{answer}<|im_end|>").input_ids)
            first = length - 1 - len(said)
            logits = expected["logits"][row, first - 1 : length - 2]
            loss = torch.nn.functional.cross_entropy(logits, said)
            assert out.per_question[row].item() == pytest.approx(loss.item(), abs=1e-4)
