"""A backbone whose mask decoder ends in the kernels: the regions and gradients of sam2's own modules."""

from dataclasses import fields

import pytest
import torch

SEEN = ("mask_logits", "candidate_logits", "candidate_iou", "iou", "object_score", "mask_tokens", "image_embedding")


def regions_of(model, batch):
    features = model.backbone.encode(batch.images)
    return model.backbone.segment(features, batch.image_index, batch.prompts)


def assert_same_regions(found, wanted):
    assert {*SEEN} < {field.name for field in fields(found)}
    for name in SEEN:
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize(("selection", "scored"), [("stability", "true"), ("stability", "false"), ("best", "true")])
def test_regions_do_not_depend_on_the_kernels(selection, scored, tiny_model, sample_batch):
    overrides = (f"backbone.selection={selection}", f"backbone.score_objects={scored}")
    plain, fused = (tiny_model(*overrides, f"backbone.kernels={kernels}") for kernels in ("torch", "triton"))
    with torch.inference_mode():
        assert_same_regions(regions_of(fused, sample_batch()), regions_of(plain, sample_batch()))
        assert len(regions_of(fused, sample_batch((0,), 0)).iou) == 0


def test_sam2s_regions_too(tiny_model, sample_batch):
    small = '{"name": "sam2", "size": "tiny", "image_size": 64, "selection": "stability", "kernels": "%s"}'
    plain, fused = (tiny_model(f"backbone={small % kernels}") for kernels in ("torch", "triton"))
    with torch.no_grad():
        assert_same_regions(regions_of(fused, sample_batch()), regions_of(plain, sample_batch()))


def test_the_whole_model_gives_the_same_loss_masks_and_gradients(tiny_model, sample_batch):
    found = []
    for kernels in ("torch", "triton"):
        model = tiny_model(
            f"backbone.kernels={kernels}", f"projector.kernels={kernels}", "backbone.selection=stability"
        )
        out = model(sample_batch())
        regions = out.regions
        (out.text.loss + regions.candidate_logits.square().mean() + regions.candidate_iou.sum()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append({"loss": out.text.loss, "masks": regions.mask_logits, **gradients})
    plain, fused = found
    assert plain.keys() == fused.keys() and any("output_hypernetworks_mlps" in name for name in plain)
    for name, value in plain.items():
        torch.testing.assert_close(
            fused[name], value, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
