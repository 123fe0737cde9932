"""Published boxes, masks and points to the prompts of records: the one place where boxes are converted. Torch-free."""

import math
from typing import Any, Literal

from pam_kit.data.masks import decode_segmentation, encode_rle
from pam_kit.errors import BrokenSample
from pam_kit.geometry import tight_box

BoxForm = Literal["xywh", "xyxy"]


def box_prompt(values: Any, form: BoxForm, size: tuple[int, int], source: str) -> dict[str, Any]:
    """A box in pixels -> ``{"box": [x1, y1, x2, y2]}``, cut to the picture.

    Args:
        values: four numbers.
        form: "xywh", as COCO has them, or "xyxy".
        size: (width, height) of the picture.
        source: what a BrokenSample names where the values are no box, or nothing of it lies in the picture.
    """
    x, y, third, fourth = _numbers(values, 4, "a box", source)
    x2, y2 = (x + third, y + fourth) if form == "xywh" else (third, fourth)
    if not (x < x2 and y < y2):
        raise BrokenSample(source, f"box {list(values)} read as {form} is empty")
    box = [max(0.0, x), max(0.0, y), min(float(size[0]), x2), min(float(size[1]), y2)]
    if not (box[0] < box[2] and box[1] < box[3]):
        raise BrokenSample(source, f"box {list(values)} read as {form} has no part in a picture of {_sides(size)}")
    return {"box": box}


def point_prompt(values: Any, size: tuple[int, int], source: str) -> dict[str, Any]:
    """One point (x, y) in pixels -> ``{"points": [[x, y]], "labels": [1]}``; BrokenSample where it lies outside."""
    x, y = _numbers(values, 2, "a point", source)
    if not (0 <= x <= size[0] and 0 <= y <= size[1]):
        raise BrokenSample(source, f"point {list(values)} lies outside a picture of {_sides(size)}")
    return {"points": [[x, y]], "labels": [1]}


def mask_prompt(segmentation: Any, size: tuple[int, int], kind: str, source: str) -> dict[str, Any]:
    """COCO polygons or RLE -> ``{"mask": RLE}``, or ``{"box": ...}`` around it where ``kind`` is "box".

    The box is tight; x2 and y2 lie behind the last pixel. Raises BrokenSample for an empty mask and MaskError for one
    that cannot be decoded or is of another size.
    """
    mask = decode_segmentation(segmentation, *size)
    box = tight_box(mask)
    if box is None:
        raise BrokenSample(source, "the mask is empty")
    return {"box": list(box)} if kind == "box" else {"mask": encode_rle(mask)}


def polygon_box(xs: Any, ys: Any, size: tuple[int, int], source: str) -> dict[str, Any]:
    """The axis-aligned box around a polygon's corners, as ``box_prompt``."""
    xs, ys = list(xs), list(ys)
    if len(xs) != len(ys) or len(xs) < 3:
        raise BrokenSample(source, f"a polygon needs x and y of three corners or more, not {len(xs)} and {len(ys)}")
    return box_prompt([min(xs), min(ys), max(xs), max(ys)], "xyxy", size, source)


def _numbers(values: Any, count: int, what: str, source: str) -> list[float]:
    good = isinstance(values, list | tuple) and len(values) == count
    if not good or not all(type(v) in (int, float) and math.isfinite(v) for v in values):
        raise BrokenSample(source, f"{what} is {count} finite numbers, not {values!r}")
    return [float(v) for v in values]


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} pixels"
