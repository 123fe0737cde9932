"""Mask losses of SAM 2 (arXiv 2408.00714, appendix D.2.1): focal or cross-entropy, dice, the errors of the IoU head and
of the head that says whether there is an object."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pam_kit.sections import LossWeights

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


def mask_losses(
    logits: Tensor,
    predicted_iou: Tensor,
    targets: Tensor,
    has_target: Tensor,
    object_score: Tensor | None = None,
) -> dict[str, Tensor]:
    """Unweighted losses by name, (), means over the regions with a target.

    ``logits`` (R, M, 4h, 4w) and ``predicted_iou`` (R, M) of every candidate, ``targets`` (R, 1, 4h, 4w) in {0, 1},
    ``has_target`` (R,), ``object_score`` (R,) logits where they learn. The single mask always learns; of the others
    only the best one of each region, so that they may differ.

    An empty target says that there is no object where the prompt points: ``objectness`` teaches the score so, the other
    losses an empty mask. Such a region adds nothing to ``iou``: the IoU with nothing jumps from 0 to 1 with the last
    pixel of the mask.
    """
    # Where no region has a target, whatever made the candidates still has a gradient, of zero.
    zero = 0 * (logits.sum() + predicted_iou.sum() + (0 if object_score is None else object_score.sum()))
    names = ("dice", "bce", "focal", "iou") + (() if object_score is None else ("objectness",))
    logits, predicted_iou = logits[has_target], predicted_iou[has_target]
    target = targets[has_target].expand_as(logits)
    if not len(logits):
        return dict.fromkeys(names, zero)
    each = {"dice": dice_loss(logits, target), "bce": bce_loss(logits, target), "focal": focal_loss(logits, target)}
    learns = _learning_candidates(each["dice"] + each["bce"])
    losses = {name: (loss * learns).sum() / len(logits) for name, loss in each.items()}
    there = (target[:, 0] > 0).flatten(1).any(1)
    iou = torch.where(there[:, None], mask_iou(logits > 0, target > 0), predicted_iou.detach())
    losses["iou"] = F.mse_loss(predicted_iou, iou)
    if object_score is not None:
        losses["objectness"] = F.binary_cross_entropy_with_logits(object_score[has_target], there.to(object_score))
    return losses


def weighted_sum(losses: dict[str, Tensor], weights: LossWeights) -> Tensor:
    """The loss that is minimised: each named loss times the recipe's weight of that name."""
    return torch.stack([getattr(weights, name) * loss for name, loss in losses.items()]).sum()


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """(..., H, W) -> (...): 1 - (2 |p t| + 1) / (|p| + |t| + 1), which is 1 - 1 / (|p| + 1) for an empty target."""
    p = logits.sigmoid()
    overlap, total = (p * target).sum((-2, -1)), p.sum((-2, -1)) + target.sum((-2, -1))
    return 1 - (2 * overlap + 1) / (total + 1)


def bce_loss(logits: Tensor, target: Tensor) -> Tensor:
    """(..., H, W) -> (...): mean binary cross-entropy."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((-2, -1))


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """(..., H, W) -> (...): mean focal loss (arXiv 1708.02002, equation 5)."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p = logits.sigmoid()
    miss = p + target - 2 * p * target  # 1 - the probability given to the truth
    alpha = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
    return (alpha * miss**FOCAL_GAMMA * cross_entropy).mean((-2, -1))


def mask_iou(mask: Tensor, target: Tensor) -> Tensor:
    """Boolean (..., H, W) -> (...); 1 where both are empty."""
    overlap, union = (mask & target).sum((-2, -1)), (mask | target).sum((-2, -1))
    return torch.where(union > 0, overlap / union.clamp_min(1), torch.ones_like(union, dtype=torch.float))


def _learning_candidates(cost: Tensor) -> Tensor:
    """(R, M) costs -> (R, M) 0/1: the first candidate, and the cheapest of the others where there are others."""
    learns = torch.zeros_like(cost)
    learns[:, 0] = 1
    if cost.shape[1] > 1:
        learns.scatter_(1, 1 + cost[:, 1:].detach().argmin(1, keepdim=True), 1)
    return learns
