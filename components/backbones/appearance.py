"""What a region looks like, from the features under its mask, and how alike two looks are.

It tells a followed object that has moved on from another one that lies where it was, without anything learned for it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pam_kit.contracts import ImageFeatures


@torch.no_grad()
def appearance(features: ImageFeatures, masks: Tensor) -> Tensor:
    """Features of one picture and masks (R, 1, 4h, 4w) bool -> looks (R, A); zero where a mask is empty.

    A look is the embedding and the finest skip features, each averaged under the mask, the picture's own average taken
    off, of length 1; the product of two looks is the mean of both cosines.
    """
    levels = [features.embedding, *features.high_resolution[:1]]
    parts = [F.normalize(_averaged(level, masks) - level.mean((2, 3)), dim=1) for level in levels]
    look = torch.cat(parts, dim=1) * len(parts) ** -0.5
    return look * masks.flatten(1).any(1)[:, None]


def _averaged(level: Tensor, masks: Tensor) -> Tensor:
    """(1, C, H, W) and (R, 1, 4h, 4w) -> (R, C): the average under each mask."""
    share = F.adaptive_avg_pool2d(masks.to(level.dtype), level.shape[-2:]).flatten(1)  # (R, H*W)
    return (share @ level[0].flatten(1).T) / share.sum(1, keepdim=True).clamp_min(1e-6)


def likeness(one: Tensor, other: Tensor) -> Tensor:
    """Looks (..., A) -> (...), in [-1, 1]; 0 where one of them is of nothing."""
    return (one * other).sum(-1)
