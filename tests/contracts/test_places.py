"""Boxes and windows of regions in shares of the picture, and crops: against arrays and slices."""

import pytest
import torch

from pam_kit.contracts import CropWindow, RegionFeatures, cropped, mask_boxes, mask_shares, region_boxes

CELLS = 16


def regions_of(masks: torch.Tensor, points=None, labels=None) -> RegionFeatures:
    """Regions with certain masks (R, H, W) bool, pointed at by points (R, P, 2) in shares."""
    logits = masks[:, None].float() * 20 - 10
    rest, number = torch.zeros(len(masks), 1, 1), torch.zeros(len(masks))
    labels = None if labels is None else torch.tensor(labels)
    points = None if points is None else torch.tensor(points, dtype=torch.float)
    return RegionFeatures(*[rest] * 5, logits, number, number, logits, rest[:, 0], points, labels)


def block(y1: int, y2: int, x1: int, x2: int) -> torch.Tensor:
    mask = torch.zeros(CELLS, CELLS, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return mask


def test_a_region_has_the_box_it_is_pointed_at_with_else_that_of_its_mask():
    seen, nothing = block(4, 8, 2, 12), block(0, 0, 0, 0)
    points = [[[0.1, 0.2], [0.5, 0.9], [0.7, 0.05]]] * 5
    labels = [[2, 3, 1], [-1, -1, -1], [1, 1, 0], [1, 0, 1], [-1, -1, -1]]
    found = region_boxes(regions_of(torch.stack([seen, seen, seen, nothing, nothing]), points, labels))
    of_mask = [2 / 16, 4 / 16, 12 / 16, 8 / 16]
    expected = [[0.1, 0.2, 0.5, 0.9], of_mask, of_mask, [0.1, 0.05, 0.7, 0.2], [0, 0, 0, 0]]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert found.isfinite().all()


@pytest.mark.parametrize("pointed", [{}, {"points": [[], []], "labels": [[], []]}])
def test_without_points_the_mask_alone_says_where_a_region_is(pointed):
    if pointed:
        pointed = {"points": torch.zeros(2, 0, 2).tolist(), "labels": [[], []]}
    regions = regions_of(torch.stack([block(0, 16, 15, 16), block(0, 0, 0, 0)]), **pointed)
    torch.testing.assert_close(region_boxes(regions), torch.tensor([[15 / 16, 0, 1, 1], [0, 0, 0, 0]]))


def test_padding_points_move_no_box():
    masks = torch.stack([block(4, 8, 2, 12)])
    short = regions_of(masks, [[[0.1, 0.2], [0.5, 0.9]]], [[2, 3]])
    long = regions_of(masks, [[[0.1, 0.2], [0.5, 0.9], [0, 0], [9, 9]]], [[2, 3, -1, -1]])
    assert torch.equal(region_boxes(short), region_boxes(long))


def test_records_of_different_length_are_joined_with_padding():
    masks = torch.stack([block(4, 8, 2, 12)])
    parts = [regions_of(masks, [[[0.1, 0.2], [0.5, 0.9]]], [[2, 3]]), regions_of(masks, [[[0.3, 0.4]]], [[1]])]
    joined = RegionFeatures.joined(parts)
    assert joined.labels.tolist() == [[2, 3], [1, -1]] and joined.points.shape == (2, 2, 2)
    assert torch.equal(joined.points[1, 0], torch.tensor([0.3, 0.4])) and joined.crop_embedding is None
    assert torch.equal(region_boxes(joined), torch.cat([region_boxes(part) for part in parts]))


def test_boxes_of_masks_are_shares_unless_the_side_is_given():
    masks = block(4, 8, 2, 12)[None, None]
    torch.testing.assert_close(mask_boxes(masks) * 64, mask_boxes(masks, 64))


def test_a_window_is_the_scaled_box_cut_to_the_picture():
    boxes = torch.tensor([[0.4, 0.4, 0.6, 0.5], [0.0, 0.8, 0.2, 1.0], [0.5, 0.5, 0.51, 0.51], [0.0, 0.0, 0.0, 0.0]])
    expected = [[0.2, 0.3, 0.8, 0.6], [0, 0.6, 0.4, 1], [0.405, 0.405, 0.605, 0.605], [0, 0, 1, 1]]
    torch.testing.assert_close(CropWindow(3.0, 0.2).around(boxes), torch.tensor(expected))


def test_a_crop_of_the_whole_picture_is_the_picture():
    images = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(3, -1)
    found = cropped(images, torch.tensor([1, 0, 1]), whole)
    assert found.dtype == torch.uint8 and torch.equal(found, images[[1, 0, 1]])


def test_a_crop_shows_what_lies_in_its_window():
    """Of a picture that is linear in x and y the crop is linear too: a closed form."""
    size = 32
    y, x = torch.meshgrid(*[torch.arange(size) + 0.5] * 2, indexing="ij")
    ramp = (3 * x + 5 * y)[None, None]
    x1, y1, x2, y2 = window = 0.25, 0.5, 0.5, 0.875
    found = cropped(ramp, torch.tensor([0]), torch.tensor([window]))
    expected = 3 * (x1 * size + x * (x2 - x1)) + 5 * (y1 * size + y * (y2 - y1))
    torch.testing.assert_close(found[0, 0], expected, atol=1e-3, rtol=0)


def test_shares_are_means_of_the_masks_probabilities_without_gradient():
    logits = torch.randn(2, 1, 8, 12, requires_grad=True)
    shares = mask_shares(logits, (2, 3))
    expected = logits.detach().sigmoid().unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2))[:, 0]
    torch.testing.assert_close(shares, expected)
    assert not shares.requires_grad
