"""Masks against plain run-length coding, closed forms and pycocotools; malformed ones against their reasons."""

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from pam_kit.data.masks import MaskError, decode_rle, decode_segmentation, encode_rle, rasterize_polygons

shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))
masks = shapes.flatmap(lambda shape: arrays(bool, shape))


def plain_counts(mask: np.ndarray) -> list[int]:
    """Run lengths down the columns, the first run unset."""
    runs = [(value, len(list(group))) for value, group in groupby(mask.T.ravel().tolist())]
    return ([0] if runs[0][0] else []) + [length for _, length in runs]


@given(masks)
def test_rle_round_trip(mask):
    rle = encode_rle(mask)
    assert rle["size"] == list(mask.shape) and isinstance(rle["counts"], str)
    assert np.array_equal(decode_rle(rle), mask) and decode_rle(rle).dtype == bool


@given(masks)
def test_plain_counts_decode_to_the_mask_they_describe(mask):
    assert np.array_equal(decode_rle({"size": list(mask.shape), "counts": plain_counts(mask)}), mask)


def test_long_runs_round_trip():
    mask = np.zeros((1500, 2000), dtype=bool)
    mask[700:1400, 3:1990] = True
    mask[10, 10] = True
    assert np.array_equal(decode_rle(encode_rle(mask)), mask)


@settings(max_examples=300)
@given(shapes, st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=12))
def test_any_counts_are_refused_or_cover_the_picture_exactly(shape, counts):
    try:
        mask = decode_rle({"size": list(shape), "counts": counts})
    except MaskError:
        return
    # An independent reading: pycocotools' area is the sum of the odd runs, whether or not all pixels are covered.
    assert mask.shape == shape
    assert mask.sum() == coco_mask.area({"size": list(shape), "counts": counts.encode()})


@pytest.mark.parametrize(
    ("rle", "reason"),
    [
        ({"size": [4, 4], "counts": "04"}, "runs cover 4 pixels, its size .* has 16"),
        ({"size": [4, 4], "counts": "0P1"}, "runs cover 32 pixels"),
        ({"size": [4, 4], "counts": "0"}, "runs cover 0 pixels"),
        ({"size": [4, 4], "counts": ""}, "empty"),
        ({"size": [4, 4], "counts": "é"}, "does not use"),
        ({"size": [4, 4], "counts": "a b"}, "does not use"),
        ({"size": [4, 4], "counts": "0o"}, "cut off"),
        ({"size": [4, 4], "counts": "0O"}, "negative run"),
        ({"size": [4, 4], "counts": "P" * 12 + "1"}, "longer than any picture"),
        ({"size": [4, 4], "counts": [3, 4]}, "cover 7 pixels"),
        ({"size": [4, 4], "counts": [17, -1]}, "0 or more"),
        ({"size": [4, 4], "counts": [8.0, 8.0]}, "integers"),
        ({"size": [4, 4], "counts": []}, "integers"),
        ({"size": [4, 4], "counts": b"04"}, "string or a list"),
        ({"size": [4, 4]}, "string or a list"),
        ({"size": [4], "counts": "04"}, "size must be"),
        ({"size": [4, 0], "counts": "0"}, "size must be"),
        ({"size": ["4", 4], "counts": "0"}, "size must be"),
        ({"counts": "04"}, "size must be"),
    ],
)
def test_malformed_rle_is_refused(rle, reason):
    with pytest.raises(MaskError, match=reason):
        decode_rle(rle)


@pytest.mark.parametrize("bad", [np.zeros((3, 4), np.uint8), np.zeros((1, 3, 4), bool), np.zeros((0, 4), bool)])
def test_only_boolean_pictures_are_encoded(bad):
    with pytest.raises(MaskError, match="boolean array"):
        encode_rle(bad)


@given(st.data())
def test_polygon_of_a_rectangle_is_the_rectangle(data):
    width, height = data.draw(st.integers(2, 50)), data.draw(st.integers(2, 50))
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    expected = np.zeros((height, width), dtype=bool)
    expected[y1:y2, x1:x2] = True
    polygon = [x1, y1, x2, y1, x2, y2, x1, y2]
    assert np.array_equal(rasterize_polygons([polygon], width, height), expected)


def test_polygons_are_united_as_pycocotools_unites_them():
    first, second = [2.5, 1.5, 20.2, 4.0, 9.9, 17.3], [5, 5, 25, 5, 25, 15, 5, 15]
    parts = coco_mask.frPyObjects([first, [float(v) for v in second]], 20, 30)
    expected = coco_mask.decode(parts).any(axis=2)
    assert np.array_equal(rasterize_polygons([first, second], 30, 20), expected)


@pytest.mark.parametrize(
    ("polygons", "reason"),
    [
        ([], "list of polygons is empty"),
        ([[1, 1, 5, 5]], "three corners; got 4 values"),
        ([[1, 1, 5, 5, 3, 2], [1, 1, 2, 2]], "got 4 values"),
        ([[1, 1, 5, 5, 3, 2, 4]], "got 7 values"),
        ([1, 1, 5, 5, 3, 2], "list of finite numbers"),
        ([[1, 1, 5, float("nan"), 3, 2]], "finite"),
        ([[1, 1, 5, float("inf"), 3, 2]], "finite"),
        ([[1, 1, 5, 10**400, 3, 2]], "finite"),
        ([["1", 1, 5, 5, 3, 2]], "list of finite numbers"),
        ([[1, 1, 5, 5, 33, 2]], r"corner \(33, 2\) lies outside a picture of 30x20"),
        ([[1, 1, 5, 5, 3, 1e9]], "outside"),
        ([[-3, 1, 5, 5, 3, 1]], "outside"),
    ],
)
def test_malformed_polygons_are_refused(polygons, reason):
    with pytest.raises(MaskError, match=reason):
        rasterize_polygons(polygons, 30, 20)


def test_segmentation_of_another_size_is_refused_before_it_is_decoded():
    huge = {"size": [10**6, 10**6], "counts": [10**9] * 1000}
    with pytest.raises(MaskError, match="the mask is 1000000x1000000 pixels, the picture 30x20"):
        decode_segmentation(huge, 30, 20)


@pytest.mark.parametrize("segmentation", [None, "RLE", 7])
def test_segmentation_is_an_rle_or_polygons(segmentation):
    with pytest.raises(MaskError, match="RLE or a list of polygons"):
        decode_segmentation(segmentation, 30, 20)
