"""Masks of regions in their pictures' own size, and what else a prompt may have meant."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from pam_kit.contracts import RegionFeatures
from pam_kit.errors import PamKitError

# By area, the smallest first. SAM's three masks are of these kinds (arXiv 2304.02643, Section 3), in no sure order.
NAMES = ("part", "whole", "group")


@dataclass(frozen=True)
class CandidateMask:
    """One of SAM's hypotheses: the mask (H, W) of ``candidate``, as counted in ``RegionFeatures.candidate_logits``."""

    candidate: int
    name: str
    mask: np.ndarray
    iou: float
    chosen: bool


@dataclass(frozen=True)
class RegionMasks:
    """The mask (H, W) of a region, the IoU that is expected of it, and the probability that there is an object.

    ``candidates`` holds the three hypotheses, the smallest first, where they were wanted; the mask is then that of the
    chosen one.
    """

    mask: np.ndarray
    iou: float
    object_score: float
    candidates: tuple[CandidateMask, ...] = ()


def region_masks(
    regions: RegionFeatures,
    sizes: Sequence[tuple[int, int]],
    hypotheses: bool = False,
    candidates: Sequence[int | None] | None = None,
) -> list[RegionMasks]:
    """The masks of R regions in pictures of these (H, W), one for each: those that the regions' texts are about.

    Args:
        hypotheses: also all three that the prompt may mean; the mask is that of the highest expected IoU.
        candidates: which of the decoder's masks each region shows; None: the one that the model tells of.
    """
    regions = regions.as_described()
    if hypotheses and (regions.candidate_tokens is None or regions.candidate_logits.shape[1] != 1 + len(NAMES)):
        raise PamKitError(
            "this model's masks have no hypotheses to choose from; use a backbone with SAM's mask decoder, or ask "
            "without them"
        )
    scores = regions.object_score.sigmoid().tolist()
    if not hypotheses:
        shown = [_shown(regions, row, candidate) for row, candidate in enumerate(candidates or [None] * len(sizes))]
        return [
            RegionMasks(full_size(logits, size), float(iou), score)
            for (logits, iou), score, size in zip(shown, scores, sizes, strict=True)
        ]
    found = []
    for row, size in enumerate(sizes):
        meant = _candidates(regions.candidate_logits[row], regions.candidate_iou[row], size)
        chosen = next(one for one in meant if one.chosen)
        found.append(RegionMasks(chosen.mask, chosen.iou, scores[row], meant))
    return found


def _shown(regions: RegionFeatures, row: int, candidate: int | None) -> tuple[Tensor, Tensor]:
    """Mask logits (4h, 4w) and expected IoU."""
    if candidate is None:
        return regions.mask_logits[row, 0], regions.iou[row]
    count = 0 if regions.candidate_tokens is None else regions.candidate_logits.shape[1]
    if not 0 <= candidate < count:
        raise PamKitError(f"this model makes {count} masks to choose from at a prompt; there is no number {candidate}")
    return regions.candidate_logits[row, candidate], regions.candidate_iou[row, candidate]


def _candidates(logits: Tensor, ious: Tensor, size: tuple[int, int]) -> tuple[CandidateMask, ...]:
    masks = {candidate: full_size(logits[candidate], size) for candidate in range(1, len(logits))}
    best = int(ious[1:].argmax()) + 1
    order = sorted(masks, key=lambda candidate: int(masks[candidate].sum()))
    return tuple(
        CandidateMask(candidate, name, masks[candidate], float(ious[candidate]), candidate == best)
        for name, candidate in zip(NAMES, order, strict=True)
    )


def full_size(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Mask logits (4h, 4w) -> the mask (H, W) in a picture of this size."""
    return (full_size_logits(logits, size) > 0).cpu().numpy()


def full_size_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask logits (4h, 4w) -> (H, W), bilinear."""
    return F.interpolate(logits[None, None].float(), size=size, mode="bilinear", align_corners=False)[0, 0]
