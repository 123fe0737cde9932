"""The released names against key lists: those of the released code, and one of what such a model consists of."""

import json
import re

import pytest
import torch

from pam_kit.model import RegionVLM
from pam_kit.recipe import load_recipe
from pam_kit.released.names import own_name, released_name, released_perceiver_name
from pam_kit.weights import without_pretrained_weights

PAIRS = {
    "model.embed_tokens.weight": "decoder.lm.model.embed_tokens.weight",
    "model.layers.27.self_attn.q_proj.bias": "decoder.lm.model.layers.27.self_attn.q_proj.bias",
    "model.norm.weight": "decoder.lm.model.norm.weight",
    "lm_head.weight": "decoder.lm.lm_head.weight",
    "model.vision_resampler.sem_tokens.weight": "perceiver.semantic_tokens",
    "model.vision_resampler.pe_layer.positional_encoding_gaussian_matrix": "perceiver.positions.gaussian",
    "model.vision_resampler.layers.1.norm4.bias": "perceiver.transformer.blocks.1.norms.3.bias",
    "model.vision_resampler.layers.0.mlp.layers.1.weight": "perceiver.transformer.blocks.0.mlp.2.weight",
    "model.vision_resampler.final_attn_token_to_image.out_proj.bias": "perceiver.transformer.last_look.out.bias",
    "model.vision_resampler.proj.weight": "projector.narrow.weight",
    "model.mm_projector_img.2.weight": "projector.visual.2.weight",
    "model.mm_projector_semT.0.bias": "projector.semantic.0.bias",
    "model.image_newline": "prefix.visual_newline",
    "model.semT_newline": "prefix.semantic_newline",
    "model.frame_newline": "prefix.frame_newline",
    "model.vision_tower.sam2_model_predictor.maskmem_tpos_enc": "backbone.model.maskmem_tpos_enc",
}


@pytest.mark.parametrize("released", PAIRS)
def test_a_name_both_ways(released):
    assert own_name(released) == PAIRS[released] and released_name(PAIRS[released]) == released


@pytest.mark.parametrize(
    "name",
    [
        "model.mm_projector.0.weight",
        "model.vision_tower.other.weight",
        "model.normal.weight",
        "optimizer.step",
        "model.vision_resampler.transformer.norm.weight",
        "perceiver.semantic_tokens",
    ],
)
def test_a_name_that_is_not_released(name):
    assert own_name(name) is None


def test_a_name_that_only_the_kit_has():
    assert released_name("backbone.mean") is None and released_name("decoder.adapter.weight") is None


def test_the_tiny_checkpoint_is_the_kits_model(released_tensors, small_sam2, tmp_path):
    sizes = "hidden_size: 32, intermediate_size: 64, num_layers: 2, num_heads: 4, num_key_value_heads: 2"
    own = own_shapes(tmp_path, f"{{name: causal_lm, {sizes}, vocab_size: 320}}", small_sam2)
    assert_the_same(own, {name: tuple(value.shape) for name, value in released_tensors.items()})


@pytest.mark.parametrize(("decoder", "count"), [("pam_1_5b", 1339), ("pam_3b", 1435)])
def test_every_key_of_the_published_models(golden, tmp_path, decoder, count):
    """Names and shapes, in both directions, of models with Hiera-L and the full vocabulary, on the meta device."""
    keymap = json.loads((golden.folder / "public/keymap/pam_1_5b.json").read_text())["keys"]
    released = {name: tuple(about["shape"]) for name, about in keymap.items()}
    if decoder == "pam_3b":
        released = shapes_of_3b(released)
    assert len(released) == count
    del released["lm_head.weight"]  # tied, and absent from files
    assert_the_same(own_shapes(tmp_path, decoder, ["decoder.vocab_size=151936"]), released)


def own_shapes(folder, decoder: str, overrides: list[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of the kit's model of the parts called pam, each tensor once."""
    file = folder / "pam.yaml"
    file.write_text(
        f"model: {{backbone: pam, perceiver: pam, projector: pam, decoder: {decoder}}}\n"
        "data: {train: micro}\ntrain: {}\nevaluate: {}\n"
    )
    with torch.device("meta"), without_pretrained_weights():
        model = RegionVLM.from_recipe(load_recipe(file, overrides))
    state = model.state_dict()
    del state["decoder.lm.lm_head.weight"]
    return {name: tuple(value.shape) for name, value in state.items()}


def assert_the_same(own: dict[str, tuple[int, ...]], released: dict[str, tuple[int, ...]]) -> None:
    assert {own_name(name): shape for name, shape in released.items()} == own
    assert {released_name(name): shape for name, shape in own.items()} == released


def shapes_of_3b(smaller: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """From those of 1.5B: a width of 2048, MLPs of 11008, 36 layers, where the two models differ."""
    wider = {1536: 2048, 8960: 11008}
    larger = {}
    for name, shape in smaller.items():
        if "vision" not in name:
            shape = tuple(wider.get(n, n) for n in shape)
        larger[name] = shape
        if name.startswith("model.layers.27."):
            larger |= {re.sub(r"\.27\.", f".{layer}.", name, count=1): shape for layer in range(28, 36)}
    return larger


def test_names_inside_the_perceiver():
    own = "transformer.blocks.1.self_attention.query.bias"
    assert released_perceiver_name(own) == "layers.1.self_attn.q_proj.bias"
