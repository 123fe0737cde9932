"""Which of many masks stay where several show the same: non-maximum suppression by masks, not by boxes. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pam_kit.errors import PamKitError


@dataclass(frozen=True)
class Overlap:
    """How much two masks that both stay may overlap.

    Args:
        iou: their intersection over their union, at most; 1 lets all stay but equal ones.
        containment: their intersection over the smaller of them, at most; None lets parts stay beside wholes.
    """

    iou: float = 0.7
    containment: float | None = None

    def __post_init__(self):
        for name in ("iou", "containment"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise PamKitError(f"the {name} up to which masks may overlap is a share from 0 to 1, not {value}")


def kept_masks(masks: Sequence[dict[str, Any]], scores: Sequence[float], overlap: Overlap) -> list[int]:
    """Numbers of the masks that stay, by falling score: each overlaps with none of a higher score by more than allowed.

    Of equal masks and of equal scores the first one stays. Masks are COCO's compressed run-length codes.
    """
    order = sorted(range(len(masks)), key=lambda number: -scores[number])
    kept: list[int] = []
    known: set[str] = set()
    for number in order:
        if masks[number]["counts"] in known:
            continue
        if kept and _overlaps(masks[number], [masks[other] for other in kept], overlap):
            continue
        known.add(masks[number]["counts"])
        kept.append(number)
    return kept


def _overlaps(mask: dict[str, Any], others: list[dict[str, Any]], allowed: Overlap) -> bool:
    if bool((coco_mask.iou([mask], others, [0] * len(others)) > allowed.iou).any()):
        return True
    if allowed.containment is None:
        return False
    # With "crowds" pycocotools divides by the area of the first mask alone.
    in_others = coco_mask.iou([mask], others, [1] * len(others))[0]
    of_others = coco_mask.iou(others, [mask], [1])[:, 0]
    return bool((np.maximum(in_others, of_others) > allowed.containment).any())
