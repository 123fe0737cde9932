"""Prompts as they are typed on a command line."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pam_kit.contracts import POSITIVE_POINT, RegionPrompt
from pam_kit.errors import PromptError
from pam_kit.inference.video_result import FramePrompt


def prompts_from_options(
    boxes: Sequence[str], points: Sequence[Sequence[str]], masks: Sequence[str], combine: bool = False
) -> list[RegionPrompt]:
    """One region per box ``x1,y1,x2,y2``, group of points ``x,y[,0|1]`` and mask file; or, combined, one region."""
    parsed_boxes = [_box(text) for text in boxes]
    parsed_points = [tuple(_point(text) for text in group) for group in points]
    parsed_masks = [_mask(path) for path in masks]
    if not (parsed_boxes or parsed_points or parsed_masks):
        raise PromptError("nothing to look at: give --box x1,y1,x2,y2, --point x,y or --mask mask.png")
    alone = [
        *(RegionPrompt(box=box) for box in parsed_boxes),
        *(_pointed(group) for group in parsed_points),
        *(RegionPrompt(mask=mask) for mask in parsed_masks),
    ]
    if not combine:
        return alone
    try:
        return [RegionPrompt.combined(alone)]
    except PromptError as error:
        raise PromptError(f"--combine makes all prompts one region, but {error}") from None


# What is pointed at, the frame and the region: the latter two may be missing.
_PLACE = re.compile(r"^(.*?)(?:@(\d+))?(?:#(\d+))?$", re.DOTALL)


def video_prompts_from_options(
    boxes: Sequence[str], points: Sequence[Sequence[str]], masks: Sequence[str], frame: int = 0, combine: bool = False
) -> list[FramePrompt]:
    """As ``prompts_from_options``, each with the frame that it points into and the region that it is about.

    ``@12`` behind a box, a mask or the last of a group of points says frame 12, by default ``frame``; ``#2`` behind
    that says region 2, by default a region of its own. With ``combine`` all are about region 1.
    """
    typed = [("box", [text]) for text in boxes] + [("point", list(group)) for group in points]
    typed += [("mask", [path]) for path in masks]
    if not typed:
        prompts_from_options([], [], [])
    placed = [_placed(kind, words, frame) for kind, words in typed]
    named = {region for region, _, _ in placed if region is not None}
    if combine and named:
        raise PromptError(f"--combine makes all prompts one region, so #{min(named)} cannot stand behind one")
    free = iter(n for n in range(1, len(placed) + 1) if n not in named)
    numbers = [1 if combine else next(free) if region is None else region for region, _, _ in placed]
    return [FramePrompt(number, at, prompt) for number, (_, at, prompt) in zip(numbers, placed, strict=True)]


def _placed(kind: str, words: list[str], frame: int) -> tuple[int | None, int, RegionPrompt]:
    """(region, None where it is not named; frame; prompt) of what was typed for one option."""
    *others, last = words
    what, at, region = _PLACE.findall(last)[0]
    if wrong := [word for word in others if "@" in word or "#" in word]:
        raise PromptError(
            f"--{kind} {wrong[0]}: the frame and the region stand behind the last point, as in 1,2 3,4@12"
        )
    if region and int(region) < 1:
        raise PromptError(f"--{kind} {last}: regions are numbered from 1 up")
    own = [*others, what]
    given = {"box": (own, [], []), "point": ([], [own], []), "mask": ([], [], own)}[kind]
    return int(region) if region else None, int(at or frame), prompts_from_options(*given)[0]


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
