"""How a region with a known mask is pointed at: as a person would, with some inaccuracy in training, or exactly."""

import numpy as np

from pam_kit.contracts import POSITIVE_POINT, Region, RegionPrompt
from pam_kit.errors import PromptError
from pam_kit.geometry import innermost_point, mask_box

# A person's box misses an edge by up to this share of the box's side.
BOX_JITTER = 0.1
MAX_TRAINING_POINTS = 3


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


def _jittered(box, width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    shift = rng.uniform(-BOX_JITTER, BOX_JITTER, size=4) * (x2 - x1, y2 - y1, x2 - x1, y2 - y1)
    x1, y1, x2, y2 = (float(v) for v in np.asarray(box) + shift)
    return max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)


def _needed_mask(region: Region, kind: str) -> np.ndarray:
    if region.mask is None:
        raise PromptError(f"region {region.id} has no mask, so no {kind} can be drawn from it")
    return region.mask
