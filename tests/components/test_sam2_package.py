"""Building the sam2 package's model, and changing entries of its configuration."""

import json

import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import safe_open
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention

from pam_kit.components.backbones.sam2 import Sam2
from pam_kit.errors import RecipeError


def test_hydras_global_state_is_neither_needed_nor_set():
    state = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with torch.device("meta"):
            Sam2("tiny")
        assert not GlobalHydra.instance().is_initialized()
    finally:
        GlobalHydra.instance().hydra = state


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_nothing_is_put_on_a_gpu_while_the_model_is_built(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with torch.device(device):
        made = Sam2("tiny", image_size=64).model
    encodings = [module for module in made.modules() if isinstance(module, PositionEmbeddingSine)]
    tables = [module.freqs_cis for module in made.modules() if isinstance(module, RoPEAttention)]
    assert len(encodings) == 2 and not any(encoding.cache for encoding in encodings)
    assert len(tables) == 8 and {table.device.type for table in tables} == {"cpu"}
    assert {tensor.device.type for tensor in [*made.parameters(), *made.buffers()]} == {device}


def test_overrides_reach_the_packages_configuration():
    changed = {
        "image_encoder.trunk.embed_dim": 16,
        "image_encoder": {"trunk": {"stages": [1, 1, 3, 1], "global_att_blocks": [4]}},
        "image_encoder.neck.backbone_channel_list": (128, 64, 32, 16),
        "memory_attention.num_layers": 1,
        "memory_attention.layer.dim_feedforward": 96,
        "multimask_output_in_sam": False,
        "image_size": 64,
    }
    made = Sam2("large", image_size=64, overrides=changed).model
    assert len(made.image_encoder.trunk.blocks) == 6 and made.image_encoder.trunk.channel_list == [128, 64, 32, 16]
    assert len(made.memory_attention.layers) == 1 and made.memory_attention.layers[0].linear1.out_features == 96
    assert made.multimask_output_in_sam is False
    untouched = Sam2("tiny", image_size=64).model
    assert len(untouched.memory_attention.layers) == 4 and untouched.multimask_output_in_sam is True


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("image_encoder.trunk.embed_dims", 16, "no entry.*did you mean 'image_encoder.trunk.embed_dim'"),
        ("image_encoder.trunk", 16, "no entry"),
        ("image_encoder.trunk.embed_dim.deep", 16, "no entry"),
        ("_target_", "os.system", "says which code is built"),
        ("image_encoder.trunk._target_", "os.system", "says which code is built"),
        ("memory_attention", {"layer": {"_target_": "os.system"}}, "says which code is built"),
        ("image_encoder.trunk._partial_", True, "says which code is built"),
        ("image_encoder.trunk.embed_dim", {"_target_": "os.system"}, "says which code is built"),
        ("image_encoder.trunk.stages", [{"_target_": "os.system"}], "takes a value like SAM 2's own"),
        ("image_encoder.trunk.embed_dim", "96", "takes a value like SAM 2's own, 96"),
        ("image_encoder.trunk.embed_dim", 96.5, "takes a value like SAM 2's own, 96"),
        ("image_encoder.trunk.embed_dim", True, "takes a value like SAM 2's own, 96"),
        ("image_encoder.trunk.embed_dim", print, "takes a value like SAM 2's own, 96"),
        ("memory_attention.layer.activation", "${oc.env:HOME}", "takes a value like SAM 2's own, 'relu'"),
        ("pred_obj_scores", 1, "takes a value like SAM 2's own, True"),
        ("image_size", 512, "backbone.image_size is 64"),
        ("image_encoder.scalp", 0, "cannot be changed: the embedding is always the level of stride 16"),
        ("image_encoder.trunk.embed_dim", 16, "do not fit together"),
    ],
)
def test_overrides_that_are_refused(key, value, message):
    with pytest.raises(RecipeError, match=f"(?s)backbone.overrides.*{key.partition('.')[0]}.*{message}"):
        Sam2("tiny", image_size=64, overrides={key: value})


def test_every_wrong_override_is_named_at_once():
    with pytest.raises(RecipeError) as caught:
        Sam2("tiny", image_size=64, overrides={"nothing": 1, "num_maskmem": "many", "num_heads": 3})
    assert len(caught.value.problems) == 3


def test_overrides_are_written_in_recipes(tiny_recipe):
    written = "backbone={name: sam2, image_size: 64, overrides: {image_encoder.trunk.embed_dim: 16}}"
    recipe = tiny_recipe(written, "backbone.overrides.memory_attention.num_layers=2")
    overrides = recipe.model.backbone.arguments["overrides"]
    assert overrides == {"image_encoder.trunk.embed_dim": 16, "memory_attention": {"num_layers": 2}}
    with pytest.raises(RecipeError, match="backbone.overrides: expected"):
        tiny_recipe("backbone={name: sam2, overrides: 3}")


def test_the_golden_models_overrides_can_be_written(golden):
    changes = json.loads(golden.load("e2e/tiny_e2e")[1]["sam_overrides"])
    pairs = (change.removeprefix("++model.").split("=") for change in changes)
    made = Sam2("tiny", image_size=256, overrides={key: yaml.safe_load(value) for key, value in pairs})
    with safe_open(golden.folder / "ckpt_tiny" / "model.safetensors", "pt") as file:
        prefix = "model.vision_tower.sam2_model_predictor."
        stored = {
            key.removeprefix(prefix): file.get_slice(key).get_shape() for key in file.keys() if key.startswith(prefix)
        }
    assert stored == {key: list(tensor.shape) for key, tensor in made.model.state_dict().items()}
