"""Masks that show the same: what stays is far enough apart, what goes is near something better."""

import numpy as np
import pytest

from pam_kit.data.masks import encode_rle
from pam_kit.errors import PamKitError
from pam_kit.geometry import mask_iou
from pam_kit.inference.deduplication import Overlap, kept_masks


def some_masks(seed: int, count: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        mask = np.zeros((40, 60), dtype=bool)
        left, top = rng.integers(0, 40), rng.integers(0, 25)
        mask[top : top + rng.integers(2, 20), left : left + rng.integers(2, 25)] = True
        masks.append(mask)
    return masks


def inside(one: np.ndarray, other: np.ndarray) -> float:
    return np.count_nonzero(one & other) / min(one.sum(), other.sum())


@pytest.mark.parametrize("overlap", [Overlap(0.7), Overlap(0.2), Overlap(0.0), Overlap(0.6, 0.8), Overlap(1.0)])
def test_what_stays_is_apart_and_what_goes_is_near_a_better_one(overlap):
    def near(one, other) -> bool:
        contained = overlap.containment is not None and inside(one, other) > overlap.containment
        return mask_iou(one, other) > overlap.iou or contained or np.array_equal(one, other)

    for seed in range(3):
        masks = some_masks(seed)
        masks.append(masks[3])
        scores = np.random.default_rng(seed).integers(0, 9, len(masks)) / 8
        kept = kept_masks([encode_rle(mask) for mask in masks], scores.tolist(), overlap)
        assert [scores[n] for n in kept] == sorted((scores[n] for n in kept), reverse=True)
        assert not any(near(masks[a], masks[b]) for a in kept for b in kept if a != b)
        for gone in set(range(len(masks))) - set(kept):
            better = [n for n in kept if (scores[n], -n) > (scores[gone], -gone)]
            assert any(near(masks[gone], masks[n]) for n in better)


def test_parts_stay_beside_wholes_unless_it_is_asked_otherwise():
    whole = np.zeros((20, 20), dtype=bool)
    whole[2:18, 2:18] = True
    part = np.zeros_like(whole)
    part[4:8, 4:8] = True
    codes = [encode_rle(part), encode_rle(whole)]
    assert kept_masks(codes, [0.5, 0.9], Overlap()) == [1, 0]
    assert kept_masks(codes, [0.5, 0.9], Overlap(containment=0.9)) == [1]
    assert kept_masks([], [], Overlap()) == []


def test_overlaps_that_are_none():
    with pytest.raises(PamKitError, match="the iou up to which masks may overlap is a share from 0 to 1, not 1.5"):
        Overlap(iou=1.5)
    with pytest.raises(PamKitError, match="containment"):
        Overlap(containment=-0.1)
