"""What a region looks like, from the features under its mask, and how alike two looks are.

It tells a followed object that has moved on from another one that lies where it was, without anything learned for it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pam_kit.contracts import ImageFeatures


@torch.no_grad()
def appearance(features: ImageFeatures, image_index: Tensor, masks: Tensor) -> Tensor:
    """Features of B pictures and masks (R, 1, 4h, 4w) bool -> looks (R, A); zero where a mask is empty.

    ``image_index`` (R,) long: the picture that each mask is of. A look is the embedding and the finest skip features,
    each averaged under the mask, the picture's own average taken off, of length 1; the product of two looks is the mean
    of both cosines.
    """
    levels = [features.embedding, *features.high_resolution[:1]]
    parts = [F.normalize(_averaged(level[image_index], masks), dim=1) for level in levels]
    look = torch.cat(parts, dim=1) * len(parts) ** -0.5
    return look * masks.flatten(1).any(1)[:, None]


def _averaged(level: Tensor, masks: Tensor) -> Tensor:
    """(R, C, H, W) and (R, 1, 4h, 4w) -> (R, C): the average under each mask, less that of the whole picture."""
    share = F.adaptive_avg_pool2d(masks.to(level.dtype), level.shape[-2:]).flatten(2)  # (R, 1, H*W)
    under = (share @ level.flatten(2).transpose(1, 2))[:, 0] / share.sum(2).clamp_min(1e-6)
    return under - level.mean((2, 3))


def likeness(one: Tensor, other: Tensor) -> Tensor:
    """Looks (..., A) -> (...), in [-1, 1]; 0 where one of them is of nothing."""
    return (one * other).sum(-1)
