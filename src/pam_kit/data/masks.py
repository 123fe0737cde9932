"""Masks at rest: COCO run-length encoding and polygons to and from (H, W) boolean arrays.

pycocotools does the coding. It trusts its input: runs that end early leave uninitialised memory in the mask and
polygons far outside the picture exhaust the memory. Everything is therefore checked before it is called.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pam_kit.errors import PamKitError

# Annotators' polygons overshoot the picture's edge by a pixel or two; what is farther out is another picture's.
POLYGON_MARGIN = 2.0
# A run of less than 2**31 pixels takes at most seven characters of five bits.
_MAX_CHARACTERS = 7


class MaskError(PamKitError):
    """A mask that cannot be decoded: malformed, or not of the picture's size."""


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """(H, W) boolean mask -> ``{"size": [H, W], "counts": str}``, COCO's compressed RLE, ready for JSON."""
    if mask.ndim != 2 or mask.dtype != bool or 0 in mask.shape:
        raise MaskError(f"a mask is a non-empty (H, W) boolean array; got shape {mask.shape} of {mask.dtype}")
    counts = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": counts.decode("ascii")}


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """COCO RLE -> (H, W) boolean mask. ``counts`` may be compressed (str) or plain (list of run lengths).

    Raises MaskError where the RLE is malformed or its runs do not add up to H * W pixels.
    """
    height, width = rle_size(rle)
    counts = rle.get("counts")
    if isinstance(counts, list):
        _check_runs(_plain_runs(counts), height, width)
        compressed = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    elif isinstance(counts, str):
        _check_runs(_compressed_runs(counts), height, width)
        compressed = {"size": [height, width], "counts": counts.encode("ascii")}
    else:
        raise MaskError(f"the RLE's counts must be a string or a list of run lengths, not {type(counts).__name__}")
    return coco_mask.decode(compressed).astype(bool)


def rle_size(rle: dict[str, Any]) -> tuple[int, int]:
    """(H, W) of an RLE, or a MaskError."""
    size = rle.get("size")
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
        raise MaskError(f"the RLE's size must be [height, width] in pixels, not {size!r}")
    return size[0], size[1]


def rasterize_polygons(polygons: Sequence[Sequence[float]], width: int, height: int) -> np.ndarray:
    """Polygons, each ``[x1, y1, x2, y2, ...]`` in pixels -> (H, W) boolean mask of their union.

    Raises MaskError for less than three corners, an odd number of values, or corners outside the picture.
    """
    if not polygons:
        raise MaskError("the list of polygons is empty")
    for polygon in polygons:
        _check_polygon(polygon, width, height)
    parts = coco_mask.frPyObjects([[float(v) for v in polygon] for polygon in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(parts)).astype(bool)


def decode_segmentation(segmentation: Any, width: int, height: int) -> np.ndarray:
    """RLE or list of polygons -> (H, W) boolean mask of a ``width`` x ``height`` picture; may be empty.

    Raises MaskError where it is malformed or of another size.
    """
    if isinstance(segmentation, list):
        return rasterize_polygons(segmentation, width, height)
    if not isinstance(segmentation, dict):
        raise MaskError(f"a mask is an RLE or a list of polygons, not {type(segmentation).__name__}")
    rle_height, rle_width = rle_size(segmentation)
    if (rle_width, rle_height) != (width, height):
        raise MaskError(f"the mask is {rle_width}x{rle_height} pixels, the picture {width}x{height}")
    return decode_rle(segmentation)


def _check_polygon(polygon: Any, width: int, height: int) -> None:
    if not isinstance(polygon, list | tuple) or not all(type(v) in (int, float) and abs(v) < 2**31 for v in polygon):
        raise MaskError("a polygon is a list of finite numbers x1, y1, x2, y2, ...")
    if len(polygon) < 6 or len(polygon) % 2:
        raise MaskError(f"a polygon needs x and y of at least three corners; got {len(polygon)} values")
    corners = np.asarray(polygon, dtype=float).reshape(-1, 2)
    inside = ((corners >= -POLYGON_MARGIN) & (corners <= np.array([width, height]) + POLYGON_MARGIN)).all(axis=1)
    if not inside.all():
        x, y = corners[np.argmin(inside)]
        raise MaskError(f"polygon corner ({x:g}, {y:g}) lies outside a picture of {width}x{height} pixels")


def _plain_runs(counts: list[Any]) -> np.ndarray:
    if not counts or not all(type(n) is int and 0 <= n < 2**31 for n in counts):
        raise MaskError("the RLE's run lengths must be integers, 0 or more")
    return np.asarray(counts, dtype=np.int64)


def _compressed_runs(counts: str) -> np.ndarray:
    """The run lengths in COCO's string: little-endian groups of five bits a character, the sixth bit says "more
    follows"; signed; from the fourth run on the difference to the run two before."""
    if not counts.isascii():
        raise MaskError("the RLE's counts hold a character that COCO's encoding does not use")
    codes = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - ord("0")
    if not len(codes) or codes.min() < 0 or codes.max() > 63:
        raise MaskError("the RLE's counts are empty or hold a character that COCO's encoding does not use")
    ends = np.flatnonzero(codes & 32 == 0)
    if not len(ends) or ends[-1] != len(codes) - 1:
        raise MaskError("the RLE's counts are cut off in the middle of a run")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MAX_CHARACTERS:
        raise MaskError("the RLE's counts hold a run longer than any picture")
    shift = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shift, starts)
    runs -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def _check_runs(runs: np.ndarray, height: int, width: int) -> None:
    if runs.min() < 0:
        raise MaskError("the RLE's counts hold a negative run")
    if runs.sum() != height * width:
        raise MaskError(f"the RLE's runs cover {runs.sum()} pixels, its size [{height}, {width}] has {height * width}")
