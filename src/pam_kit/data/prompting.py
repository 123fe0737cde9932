"""How a region with a known mask is pointed at: as a person would, with some inaccuracy in training, or exactly."""

from collections.abc import Sequence

import numpy as np

from pam_kit.contracts import POSITIVE_POINT, Region, RegionPrompt
from pam_kit.errors import PromptError
from pam_kit.geometry import box_iou, innermost_point, mask_box

# A person's box misses an edge by up to this share of the box's side.
BOX_JITTER = 0.1
MAX_TRAINING_POINTS = 3
# A box is of an object from this IoU with the object's own box on.
OWN_BOX_IOU = 0.3
# Boxes tried for a prompt as a tracker gives it.
TRACKER_TRIALS = 20

Box = tuple[float, float, float, float]


def exact_prompt(region: Region, kind: str, width: int, height: int) -> RegionPrompt:
    """The prompt of one kind that points at ``region`` best; used for evaluation.

    ``box`` is the mask's tight box, ``point`` its innermost pixel, ``mask`` the mask itself, ``whole_image`` ignores
    the region, ``given`` is the sample's own prompt.
    """
    if kind == "whole_image":
        return RegionPrompt.whole_image(width, height)
    if kind == "given":
        if region.prompt is None:
            raise PromptError(f"region {region.id} has no prompt of its own; choose box, point or mask")
        return region.prompt
    mask = _needed_mask(region, kind)
    if kind == "box":
        return RegionPrompt(box=mask_box(mask))
    if kind == "mask":
        return RegionPrompt(mask=mask)
    if kind == "point":
        return RegionPrompt(points=(innermost_point(mask),), labels=(POSITIVE_POINT,))
    raise PromptError(f"unknown prompt kind {kind!r}; choose box, point, mask, whole_image or given")


def drawn_prompt(region: Region, kind: str, width: int, height: int, rng: np.random.Generator) -> RegionPrompt:
    """A prompt of one kind as a person might give it; used for training."""
    if kind == "mask":
        return RegionPrompt(mask=_needed_mask(region, kind))
    if kind == "box":
        return RegionPrompt(box=_jittered(mask_box(_needed_mask(region, kind)), width, height, rng))
    if kind == "point":
        rows, columns = np.nonzero(_needed_mask(region, kind))
        chosen = rng.choice(
            len(rows), size=min(len(rows), int(rng.integers(1, MAX_TRAINING_POINTS + 1))), replace=False
        )
        points = tuple((float(columns[i]) + 0.5, float(rows[i]) + 0.5) for i in chosen)
        return RegionPrompt(points=points, labels=(POSITIVE_POINT,) * len(points))
    raise PromptError(f"unknown prompt kind {kind!r} for training; choose box, point or mask")


def absent_prompt(
    own: Box, boxes: Sequence[Box], width: int, height: int, rng: np.random.Generator
) -> RegionPrompt | None:
    """A box that no object answers, as a tracker asks when an object is gone; None where none was found.

    In equal shares it lies anywhere or across a part of an object. Its sides are 0.4 to 1.2 times those of ``own``, so
    that its size alone does not tell it, and its IoU with each of ``boxes``, those of all regions of the picture, is
    below 0.3. Of objects that are no region of the picture nothing is known here.
    """
    picture = (0.0, 0.0, float(width), float(height))
    for _ in range(TRACKER_TRIALS):
        across = len(boxes) > 0 and rng.random() < 0.5
        x1, y1, x2, y2 = boxes[int(rng.integers(len(boxes)))] if across else picture
        middle = np.asarray(rng.uniform((x1, y1), (x2, y2)))
        box = _box_around(middle, own, rng.uniform(0.4, 1.2, size=2), width, height)
        if box is not None and all(box_iou(box, other) < OWN_BOX_IOU for other in boxes):
            return RegionPrompt(box=box)
    return None


def loose_prompt(
    own: Box, boxes: Sequence[Box], width: int, height: int, rng: np.random.Generator
) -> RegionPrompt | None:
    """A box that holds an object loosely, as a tracker asks for one that moves; None where none was found.

    Its sides are 0.8 to 1.6 times those of ``own`` and its middle is up to 0.35 sides away. Its IoU with ``own`` is 0.3
    or more and larger than with any other of ``boxes``.
    """
    sides = np.asarray((own[2] - own[0], own[3] - own[1]))
    for _ in range(TRACKER_TRIALS):
        middle = np.asarray((own[0] + own[2], own[1] + own[3])) / 2 + rng.uniform(-0.35, 0.35, size=2) * sides
        box = _box_around(middle, own, rng.uniform(0.8, 1.6, size=2), width, height)
        if box is not None and max(OWN_BOX_IOU, *(box_iou(box, other) for other in boxes)) <= box_iou(box, own):
            return RegionPrompt(box=box)
    return None


def _box_around(middle: np.ndarray, own: Box, scale: np.ndarray, width: int, height: int) -> Box | None:
    """A box of ``scale`` times the sides of ``own``, cut to the picture; None where less than a pixel is left."""
    half = scale * (own[2] - own[0], own[3] - own[1]) / 2
    low, high = np.maximum(middle - half, 0), np.minimum(middle + half, (width, height))
    return (float(low[0]), float(low[1]), float(high[0]), float(high[1])) if (high - low).min() >= 1 else None


def region_box(region: Region) -> Box | None:
    """The box of a region's mask, or else the one that it is pointed at with."""
    if region.mask is not None:
        return mask_box(region.mask)
    return None if region.prompt is None else region.prompt.box


def _jittered(box, width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    shift = rng.uniform(-BOX_JITTER, BOX_JITTER, size=4) * (x2 - x1, y2 - y1, x2 - x1, y2 - y1)
    x1, y1, x2, y2 = (float(v) for v in np.asarray(box) + shift)
    return max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)


def _needed_mask(region: Region, kind: str) -> np.ndarray:
    if region.mask is None:
        raise PromptError(f"region {region.id} has no mask, so no {kind} can be drawn from it")
    return region.mask
