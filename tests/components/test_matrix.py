"""Whatever is registered works in a whole model: it learns, is saved, is loaded and answers.

A new component is tested by being registered. Where its defaults are too large or do not fit a picture of 64 pixels,
it gets a row in SMALL.
"""

import json
import shutil

import pytest
import torch

from pam_kit.checkpoints import load_model, save_model
from pam_kit.model import RegionVLM
from pam_kit.registry import SUPPLIED, find, specs
from pam_kit.sections import SLOTS, LossWeights
from pam_kit.training.losses import mask_losses, weighted_sum

# (slot, component) -> arguments that make it small, for each way in which it is to be tried. They are added to those
# of the tiny recipe in conftest.py; a component without a row is tried with its defaults.
SMALL = {
    ("backbone", "timm_sam"): [
        {},
        {"model_name": "test_resnet", "feature_stride": 8, "freeze_extractor": True},
        {"track": True, "score_objects": True},
    ],
    ("backbone", "sam2"): [{"size": "tiny", "image_size": 64, "frozen": False}],
    ("perceiver", "semantic_perceiver"): [
        {},
        {"tokens": "all", "mask_focus": 1.0, "image_features": "pre_ffm"},
        {"num_semantic_tokens": 0},
    ],
    ("perceiver", "none"): [{}, {"mask_tokens": False}],
    ("perceiver", "mask_pooling"): [{}, {"position_token": False, "refine": True}],
    ("perceiver", "token_marks"): [{}, {"num_marks": 7, "under": "box"}],
    ("perceiver", "focal_crop"): [{"num_heads": 2, "mlp_dim": 32}],
    ("projector", "pixel_shuffle_mlp"): [{}, {"ratio": 4, "token_order": "column"}],
    ("projector", "region_tokens"): [{}, {"ratio": 1, "budget": 9, "pooled": 4, "later_budget": 6}],
    ("decoder", "causal_lm"): [{}, {"architecture": "gemma2", "template": "chatml", "dtype": "bfloat16"}],
}

# Parameters in millions, as published: SAM 2's own table of checkpoints, the model cards of Qwen2.5.
PUBLISHED_SIZES = {
    "sam2_hiera_tiny": 38.9,
    "sam2_hiera_small": 46.0,
    "sam2_hiera_base_plus": 80.8,
    "sam2_hiera_large": 224.4,
    "qwen2_5_0_5b": 494.0,
    "qwen2_5_1_5b": 1543.7,
    "qwen2_5_3b": 3085.9,
}

COMPONENTS = [(slot, name) for slot in SLOTS for name, spec in specs(slot).items() if spec.preset_of is None]
PRESETS = [(slot, name) for slot in SLOTS for name, spec in specs(slot).items() if spec.preset_of is not None]
CASES = [
    pytest.param(slot, name, arguments, id=f"{slot}-{name}-{number}")
    for slot, name in COMPONENTS
    for number, arguments in enumerate(SMALL.get((slot, name), [{}]))
]


def small_model(tiny_model, slot: str, name: str, arguments: dict) -> tuple[RegionVLM, str]:
    """A model around the component, and the override that chose it."""
    override = f"{slot}={json.dumps({'name': name, **arguments})}"
    try:
        return tiny_model(override), override
    except Exception as error:
        pytest.fail(
            f"{slot} {name!r} ({find(slot, name).place}) cannot be built with {arguments or 'its defaults'} beside "
            f"the tiny recipe of tests/conftest.py: {error!r}. Give it small arguments in SMALL of {__file__}"
        )


def batch_for(model: RegionVLM, sample_batch):
    return sample_batch((4, 2), 6, image_size=model.backbone.image_size, cells=4 * model.backbone.grid[0])


def training_loss(model: RegionVLM, batch) -> torch.Tensor:
    """All that a training step may minimise."""
    out = model(batch)
    losses = {"text": out.text.loss}
    if out.tokens.semantic.shape[1]:
        losses["alignment"] = model.decoder.align(out.tokens.semantic, batch.questions)
    if out.regions.candidate_logits.requires_grad:
        shown = out.regions.candidate_logits, out.regions.candidate_iou
        score = out.regions.object_score if out.regions.object_score.requires_grad else None
        losses |= mask_losses(*shown, batch.target_masks, batch.has_target, score)
    return weighted_sum(losses, LossWeights(text=1, alignment=1, dice=1, bce=1, focal=1, iou=1, objectness=1))


def results(model: RegionVLM, batch) -> list:
    with torch.inference_mode():
        out = model(batch)
        regions, answers = model.answer(batch.images, batch.image_index, batch.prompts, batch.questions, 4)
    return [out.text.per_question, out.regions.mask_logits, regions.mask_logits, regions.iou, answers]


@pytest.mark.parametrize(("slot", "name", "arguments"), CASES)
def test_component_learns_is_saved_loaded_and_answers(
    tiny_model, tiny_recipe, sample_batch, tmp_path, slot, name, arguments
):
    model, override = small_model(tiny_model, slot, name, arguments)
    batch, part = batch_for(model, sample_batch), getattr(model, slot)

    model.train()
    training_loss(model, batch).backward()
    learning = {key: p for key, p in model.named_parameters() if p.requires_grad}
    without = [key for key, p in learning.items() if p.grad is None]
    assert not without, f"parameters that learn but get no gradient (which stops distributed training): {without}"
    assert all(p.grad.isfinite().all() for p in learning.values())
    assert not any(True for _ in part.parameters()) or any(p.grad.any() for p in part.parameters() if p.requires_grad)

    expected = results(model.eval(), batch)
    assert len(expected[-1]) == 6 and all(0 <= answer.score <= 1 for answer in expected[-1])
    save_model(tmp_path, model, tiny_recipe(override))
    loaded, recipe = load_model(tmp_path)
    shutil.rmtree(tmp_path / "model")
    assert getattr(recipe.model, slot).name == name and not loaded.training
    own, other = model.state_dict(), loaded.state_dict()
    assert own.keys() == other.keys() and all(torch.equal(own[key], other[key]) for key in own)
    for value, again in zip(expected, results(loaded, batch), strict=True):
        assert torch.equal(value, again) if isinstance(value, torch.Tensor) else value == again


@pytest.mark.parametrize(("slot", "name"), PRESETS)
def test_preset_is_of_the_published_size(slot, name):
    """On the meta device, which holds no numbers; presets are too large for a test, or need a download."""
    supplied = dict.fromkeys(SUPPLIED.get(slot, ()), 256)
    with torch.device("meta"):
        made = find(slot, name).build(**supplied)
    sizes = [p.numel() for p in made.parameters() if p.is_meta]
    assert len(sizes) == len(list(made.parameters()))
    if name in PUBLISHED_SIZES:
        assert sum(sizes) / 1e6 == pytest.approx(PUBLISHED_SIZES[name], abs=0.1)


def test_every_row_is_of_a_component():
    assert set(SMALL) <= set(COMPONENTS) and set(PUBLISHED_SIZES) <= {name for _, name in PRESETS}


def test_a_component_that_needs_a_row_is_told_so(tiny_model):
    with pytest.raises(pytest.fail.Exception, match=r"perceiver 'semantic_perceiver'.*SMALL"):
        small_model(tiny_model, "perceiver", "semantic_perceiver", {"num_heads": 5})
