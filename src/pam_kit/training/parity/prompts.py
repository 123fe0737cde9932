"""Pictures and prompts of golden files, on the kit's own way into the backbone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pam_kit.contracts import RegionBatch, RegionPrompt
from pam_kit.data.prepare import Geometry, collate, prepare


def region_prompt(visual_prompt: Sequence[Any], labels: Sequence[int] | None) -> RegionPrompt:
    """A flat list of four numbers is a box, a list of pairs are points, as in the released code."""
    if not isinstance(visual_prompt[0], Sequence):
        x1, y1, x2, y2 = visual_prompt
        return RegionPrompt(box=(x1, y1, x2, y2))
    points = tuple((x, y) for x, y in visual_prompt)
    return RegionPrompt(points=points, labels=tuple(labels or ()))


def prompted_picture(picture: Tensor | np.ndarray, prompt: RegionPrompt, geometry: Geometry) -> RegionBatch:
    """(H, W, 3) uint8 and one prompt -> a batch of one picture and one region."""
    return collate([prepare(np.asarray(picture), [prompt], [], geometry)], geometry)
