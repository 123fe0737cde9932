"""Any timm extractor under SAM's mask decoder: shapes, exact batching, gradients, weights and drawn prompts."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from pam_kit.components.backbones.drawn_prompts import POINT_SIGMA, draw_prompts
from pam_kit.components.backbones.timm_sam import TimmSam
from pam_kit.contracts import PromptBatch
from pam_kit.errors import CheckpointError, PamKitError, RecipeError
from pam_kit.registry import find

SMALL = dict(model_name="test_byobnet", embed_dim=32, decoder_mlp_dim=64)


def mixed_prompts(image_size: int = 128, cells: int = 32) -> PromptBatch:
    """A box, a point, two points, a mask, and a mask in a box."""
    points = torch.tensor(
        [
            [[10.0, 20.0], [70.0, 90.0]],
            [[40.0, 50.0], [0.0, 0.0]],
            [[30.0, 30.0], [90.0, 100.0]],
            [[0.0, 0.0], [0.0, 0.0]],
            [[20.0, 20.0], [100.0, 60.0]],
        ]
    )
    labels = torch.tensor([[2, 3], [1, -1], [1, 0], [-1, -1], [2, 3]])
    masks = torch.zeros(5, 1, cells, cells)
    masks[3:, :, cells // 4 : cells // 2, cells // 3 : cells // 2] = 1
    return PromptBatch(points * image_size / 128, labels, masks, torch.tensor([False, False, False, True, True]))


def pictures(count: int, size: int = 128) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def rows(prompts: PromptBatch, chosen) -> PromptBatch:
    return PromptBatch(prompts.points[chosen], prompts.labels[chosen], prompts.masks[chosen], prompts.has_mask[chosen])


@pytest.mark.parametrize(
    ("arguments", "cells"),
    [
        (dict(model_name="mobilenetv4_conv_small"), 8),
        (dict(model_name="test_convnext", feature_stride=8), 16),
        (dict(model_name="test_vit", draw_prompts=False), 8),
        (dict(model_name="swin_tiny_patch4_window7_224", embed_dim=64), 8),
        (dict(model_name="test_byobnet", decoder_depth=1, decoder_heads=2, selection="best"), 8),
        (dict(model_name="tf_efficientnet_lite0"), 8),
    ],
)
def test_shapes_and_a_gradient_for_every_parameter(arguments, cells):
    torch.manual_seed(0)
    backbone = TimmSam(**arguments)
    width, index = backbone.embed_dim, torch.tensor([0, 1, 1, 0, 1])
    features = backbone.encode(pictures(2))
    regions = backbone.segment(features, index, mixed_prompts(cells=4 * cells))
    assert backbone.grid == (cells, cells) and features.embedding.shape == (2, width, cells, cells)
    assert regions.image_embedding.shape == regions.source_embedding.shape == (5, width, cells, cells)
    assert regions.candidate_logits.shape == (5, 4, 4 * cells, 4 * cells)
    # The IoU token, four mask tokens and up to three of the prompt; there is no object-score token.
    assert regions.all_tokens.shape == (5, 8, width) and regions.token_padding.sum() == 2
    assert (regions.object_score > 5).all(), "every prompt of this backbone is taken to point at an object"
    (regions.candidate_logits.sum() + regions.candidate_iou.sum()).backward()
    assert not [name for name, parameter in backbone.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("draw", [False, True])
def test_a_batch_gives_what_one_by_one_gives(draw):
    torch.manual_seed(0)
    backbone, prompts, index = (
        TimmSam(**SMALL, draw_prompts=draw).eval(),
        mixed_prompts(),
        torch.tensor([1, 0, 2, 1, 0]),
    )
    features = backbone.encode(pictures(3))
    together = backbone.segment(features, index, prompts)
    for row in range(len(prompts)):
        alone = backbone.segment(
            backbone.encode(pictures(3)[index[row]][None]), torch.tensor([0]), rows(prompts, [row])
        )
        torch.testing.assert_close(
            together.all_tokens[row][~together.token_padding[row]], alone.all_tokens[0], atol=1e-5, rtol=0
        )
        for name in ("image_embedding", "mask_tokens", "mask_logits", "candidate_iou"):
            torch.testing.assert_close(getattr(together, name)[row], getattr(alone, name)[0], atol=1e-5, rtol=0)


def test_it_learns_to_fill_boxes():
    torch.manual_seed(0)
    backbone, images, index = TimmSam(**SMALL), pictures(4), torch.arange(4)
    prompts = rows(mixed_prompts(), [0, 4, 0, 4])
    prompts = PromptBatch(prompts.points, prompts.labels, prompts.masks, torch.zeros(4, dtype=torch.bool))
    target = draw_prompts(prompts, 128).masks
    optimizer, losses = torch.optim.AdamW(backbone.parameters(), lr=2e-3), []
    for _ in range(30):
        regions = backbone.segment(backbone.encode(images), index, prompts)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(regions.mask_logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_freezing_the_extractor_leaves_the_rest_learning():
    backbone = TimmSam(**SMALL, freeze_extractor=True).train()
    assert not any(module.training for module in backbone.extractor.modules()) and backbone.pyramid.training
    before = {name: buffer.clone() for name, buffer in backbone.extractor.named_buffers()}
    regions = backbone.segment(backbone.encode(pictures(2)), torch.arange(2), rows(mixed_prompts(), [0, 1]))
    regions.candidate_logits.sum().backward()
    assert all(parameter.grad is None for parameter in backbone.extractor.parameters())
    assert backbone.pyramid.lateral[0].weight.grad is not None
    assert all(torch.equal(buffer, before[name]) for name, buffer in backbone.extractor.named_buffers())


def test_frozen_is_out_of_the_graph_and_in_eval_mode():
    backbone = TimmSam(**SMALL, frozen=True).train()
    assert not any(module.training for module in backbone.modules())
    regions = backbone.segment(backbone.encode(pictures(1)), torch.tensor([0]), rows(mixed_prompts(), [0]))
    assert not regions.mask_logits.requires_grad and not any(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("model_name", ["test_resnet", "test_convnext", "test_vit"])
def test_a_file_of_the_whole_model_fills_the_extractor(model_name, tmp_path):
    sizes = {"img_size": 128} if model_name == "test_vit" else {}
    whole = timm.create_model(model_name, **sizes).eval()
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    backbone = TimmSam(model_name, embed_dim=32, weights=str(tmp_path / "whole.safetensors")).eval()
    images = torch.randn(1, 3, 128, 128)
    last = backbone.extractor(images)[-1]
    expected = whole.forward_intermediates(images, intermediates_only=True)[-1]
    torch.testing.assert_close(last, expected)


def test_misfits_of_a_file_are_listed(tmp_path):
    state = timm.create_model("test_byobnet").state_dict()
    state["surplus"] = torch.zeros(1)
    state.pop("stem.conv.weight")
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(CheckpointError) as caught:
        TimmSam(**SMALL, weights=str(tmp_path / "broken.safetensors"))
    assert "missing: stem.conv.weight" in str(caught.value) and "unknown: surplus" in str(caught.value)
    with pytest.raises(CheckpointError, match="absent"):
        TimmSam(**SMALL, weights=str(tmp_path / "absent.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(image_size=100), "multiple of 32"),
        (dict(embed_dim=36), "multiple of 8"),
        (dict(model_name="mobilenetv4_conv_smal"), "did you mean 'mobilenetv4_conv_small'"),
        (dict(model_name="vit_small_patch14_dinov2", image_size=448), "levels of strides 14"),
        (dict(model_name="test_resnet", weights="lite0"), "tf_efficientnet_lite0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, words):
    with pytest.raises(RecipeError, match=words):
        TimmSam(**arguments)


def test_images_of_another_size_are_refused():
    with pytest.raises(PamKitError, match=r"\(1, 3, 64, 64\)"):
        TimmSam(**SMALL).encode(pictures(1, 64))


def test_it_is_built_on_the_meta_device_without_its_weights():
    with torch.device("meta"):
        backbone = find("backbone", "timm_sam").build(weights="not/there/yet.safetensors")
    assert all(parameter.is_meta for parameter in backbone.parameters())


def test_no_region_gives_empty_features():
    backbone = TimmSam(**SMALL)
    regions = backbone.segment(
        backbone.encode(pictures(1)), torch.zeros(0, dtype=torch.long), rows(mixed_prompts(), [])
    )
    assert regions.mask_logits.shape == (0, 1, 32, 32) and regions.all_tokens.shape[::2] == (0, 32)


def test_drawn_boxes_are_filled_where_cell_centres_lie_inside():
    drawn = draw_prompts(mixed_prompts(), 128).masks[0, 0]
    centres = torch.arange(32) * 4 + 2.0
    inside = ((centres >= 20) & (centres <= 90))[:, None] & ((centres >= 10) & (centres <= 70))[None, :]
    assert torch.equal(drawn, inside.float())


def test_drawn_points_are_gaussian_and_negative_ones_take_away():
    prompts = mixed_prompts()
    drawn = draw_prompts(prompts, 128)
    sigma, centres = POINT_SIGMA * 128, torch.arange(32) * 4 + 2.0
    blob = torch.exp(-((centres[None, :] - 40) ** 2 + (centres[:, None] - 50) ** 2) / (2 * sigma**2))
    torch.testing.assert_close(drawn.masks[1, 0], blob)
    here = torch.tensor([[[30.0, 30.0], [30.0, 30.0]]])
    both = PromptBatch(here, torch.tensor([[1, 0]]), torch.zeros(1, 1, 32, 32), torch.tensor([False]))
    assert draw_prompts(both, 128).masks.max() <= 0.25
    assert torch.equal(drawn.masks[3:], prompts.masks[3:]) and drawn.has_mask.all()
