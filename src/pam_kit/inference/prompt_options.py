"""Prompts as they are typed on a command line."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pam_kit.contracts import POSITIVE_POINT, RegionPrompt
from pam_kit.errors import PromptError


def prompts_from_options(
    boxes: Sequence[str], points: Sequence[Sequence[str]], masks: Sequence[str], combine: bool = False
) -> list[RegionPrompt]:
    """One region per box ``x1,y1,x2,y2``, group of points ``x,y[,0|1]`` and mask file; or, combined, one region."""
    parsed_boxes = [_box(text) for text in boxes]
    parsed_points = [tuple(_point(text) for text in group) for group in points]
    parsed_masks = [_mask(path) for path in masks]
    if not (parsed_boxes or parsed_points or parsed_masks):
        raise PromptError("nothing to look at: give --box x1,y1,x2,y2, --point x,y or --mask mask.png")
    if combine:
        return [_combined(parsed_boxes, parsed_points, parsed_masks)]
    return [
        *(RegionPrompt(box=box) for box in parsed_boxes),
        *(_pointed(group) for group in parsed_points),
        *(RegionPrompt(mask=mask) for mask in parsed_masks),
    ]


def _combined(boxes, points, masks) -> RegionPrompt:
    if len(boxes) > 1 or len(masks) > 1:
        raise PromptError(f"one region has at most one box and one mask; --combine got {len(boxes)} and {len(masks)}")
    pointed = _pointed([point for group in points for point in group])
    return RegionPrompt(
        box=boxes[0] if boxes else None,
        points=pointed.points,
        labels=pointed.labels,
        mask=masks[0] if masks else None,
    )


def _pointed(points) -> RegionPrompt:
    return RegionPrompt(points=tuple((x, y) for x, y, _ in points), labels=tuple(label for *_, label in points))


def _box(text: str) -> tuple[float, float, float, float]:
    values = _numbers(text)
    if len(values) != 4:
        raise PromptError(f"--box {text}: expected four numbers x1,y1,x2,y2, as in --box 10,20,110,90")
    return (values[0], values[1], values[2], values[3])


def _point(text: str) -> tuple[float, float, int]:
    values = _numbers(text)
    if len(values) not in (2, 3) or values[2:] not in ([], [0.0], [1.0]):
        raise PromptError(f"--point {text}: expected x,y or x,y,0 (outside the region) or x,y,1 (inside it)")
    return values[0], values[1], int(values[2]) if len(values) == 3 else POSITIVE_POINT


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return []


def _mask(path: str) -> np.ndarray:
    if not Path(path).is_file():
        raise PromptError(f"--mask {path}: no such file")
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("L")) > 0
    except (UnidentifiedImageError, OSError) as error:
        raise PromptError(f"--mask {path}: cannot be read as a picture: {error}") from error
