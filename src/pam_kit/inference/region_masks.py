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
    regions: RegionFeatures, sizes: Sequence[tuple[int, int]], hypotheses: bool = False
) -> list[RegionMasks]:
    """The masks of R regions in pictures of these (H, W), one for each.

    Args:
        hypotheses: also all three that the prompt may mean; the mask is that of the highest expected IoU.
    """
    if hypotheses and (regions.candidate_tokens is None or regions.candidate_logits.shape[1] != 1 + len(NAMES)):
        raise PamKitError(
            "this model's masks have no hypotheses to choose from; use a backbone with SAM's mask decoder, or ask "
            "without them"
        )
    shown, scores = regions.iou.tolist(), regions.object_score.sigmoid().tolist()
    if not hypotheses:
        return [
            RegionMasks(_full_size(regions.mask_logits[row, 0], size), shown[row], scores[row])
            for row, size in enumerate(sizes)
        ]
    found = []
    for row, size in enumerate(sizes):
        candidates = _candidates(regions.candidate_logits[row], regions.candidate_iou[row], size)
        chosen = next(one for one in candidates if one.chosen)
        found.append(RegionMasks(chosen.mask, chosen.iou, scores[row], candidates))
    return found


def _candidates(logits: Tensor, ious: Tensor, size: tuple[int, int]) -> tuple[CandidateMask, ...]:
    masks = {candidate: _full_size(logits[candidate], size) for candidate in range(1, len(logits))}
    best = int(ious[1:].argmax()) + 1
    order = sorted(masks, key=lambda candidate: int(masks[candidate].sum()))
    return tuple(
        CandidateMask(candidate, name, masks[candidate], float(ious[candidate]), candidate == best)
        for name, candidate in zip(NAMES, order, strict=True)
    )


def _full_size(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    full = F.interpolate(logits[None, None].float(), size=size, mode="bilinear", align_corners=False)
    return (full[0, 0] > 0).cpu().numpy()
