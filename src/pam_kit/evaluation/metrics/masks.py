"""Masks against masks: IoU of regions in pictures; those of followed regions, J and F, are ``MaskletScore``."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from pam_kit.errors import PamKitError
from pam_kit.evaluation.masklets import Mask, MaskletScore, region_similarity

__all__ = ["MaskIoU", "MaskletScore"]


class MaskIoU(Metric):
    """Mean intersection over union of masks, and cumulative: all intersections over all unions.

    Two empty masks have an IoU of 1. Only sums are kept, so that the metrics of several processes add up.

    Args:
        kwargs: those of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        for name in ("total", "count", "intersection", "union"):
            self.add_state(name, torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted: Sequence[Mask], truth: Sequence[Mask]) -> None:
        """Boolean (H, W) masks. Raises PamKitError where there are not equally many, or two do not fit."""
        if len(predicted) != len(truth):
            raise PamKitError(f"{len(predicted)} predicted masks but {len(truth)} true ones; give one of each a region")
        for ours, theirs in zip(predicted, truth, strict=True):
            self.total += region_similarity(ours, theirs)
            self.count += 1
            pair = [torch.as_tensor(mask) for mask in (ours, theirs)]
            self.intersection += (pair[0] & pair[1].to(pair[0].device)).sum().to(self.device)
            self.union += (pair[0] | pair[1].to(pair[0].device)).sum().to(self.device)

    def compute(self) -> dict[str, Tensor]:
        """``mask_iou`` and ``cumulative_iou``, () float64 in [0, 1]; NaN where there was no mask."""
        return {"mask_iou": self.total / self.count, "cumulative_iou": self.intersection / self.union}
