import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pam_kit.geometry import eroded, innermost_point, mask_box


def random_mask(height, width, share, seed):
    mask = np.random.default_rng(seed).random((height, width)) < share
    mask[seed % height, seed % width] = True
    return mask


masks = st.builds(
    random_mask, st.integers(1, 260), st.integers(1, 260), st.sampled_from([0.0, 0.1, 0.9]), st.integers(0, 9999)
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(masks)
def test_box_agrees_with_pycocotools(mask):
    x, y, width, height = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8)))
    assert mask_box(mask) == (x, y, x + width, y + height)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(masks)
def test_innermost_point_is_the_middle_of_a_set_pixel(mask):
    x, y = innermost_point(mask)
    assert mask[int(y), int(x)]


def test_innermost_point_of_sparse_pixels_larger_than_the_coarse_copy():
    for seed in range(40):
        mask = random_mask(228, 84 + seed, 0.1, seed)
        x, y = innermost_point(mask)
        assert mask[int(y), int(x)] and x % 1 == y % 1 == 0.5


@pytest.mark.parametrize("shape", [(9, 15), (41, 41), (300, 400)])
def test_innermost_point_of_a_rectangle_keeps_half_the_short_side_from_its_edges(shape):
    mask = np.zeros((500, 600), dtype=bool)
    top, left = 50, 70
    mask[top : top + shape[0], left : left + shape[1]] = True
    x, y = innermost_point(mask)
    depth = min(x - left, left + shape[1] - x, y - top, top + shape[0] - y)
    assert depth >= min(shape) / 2 - max(1, max(shape) / 96)


def test_innermost_point_of_a_ring_lies_on_the_ring():
    rows, columns = np.ogrid[:200, :200]
    radius = np.hypot(rows - 100, columns - 100)
    x, y = innermost_point((radius > 60) & (radius < 90))
    assert 70 < np.hypot(y - 100.5, x - 100.5) < 80


@settings(max_examples=40, deadline=None, derandomize=True)
@given(masks)
def test_erosion_agrees_with_scipy(mask):
    ndimage = pytest.importorskip("scipy.ndimage")
    before = mask.copy()
    np.testing.assert_array_equal(eroded(mask), ndimage.binary_erosion(mask))
    np.testing.assert_array_equal(mask, before)
