"""What follows a mask decoder's two-way transformer, in plain torch: upscaling, masks, counts, choice of a mask."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pam_kit.kernels.mask_tail.packing import PackedUpscaling, convolution_weight

# SAM 2's stability score compares the areas above +0.05 and above -0.05.
DELTA = 0.05


class Selected(NamedTuple):
    """One mask of several for each region.

    Args:
        index: (R,) long.
        stability: (R,) of the first mask: its area above +delta over that above -delta, 1 where that is empty.
        tokens: (R, 2, C): the token of the selected mask, and the first.
        area: (R,) int32, pixels of the selected mask with logits above 0.
    """

    index: Tensor
    stability: Tensor
    tokens: Tensor
    area: Tensor


def rounded_delta(dtype: torch.dtype, delta: float = DELTA) -> float:
    """``delta`` as logits of that type can be compared with: SAM 2 compares in the type of its logits."""
    return float(torch.tensor(delta, dtype=dtype))


def upscale_stage1(
    tokens: Tensor, grid: tuple[int, int], upscaling: PackedUpscaling, skip: Tensor | None, image_index: Tensor
) -> Tensor:
    """First transposed convolution, skip feature, norm and GELU.

    Args:
        tokens: (R, h*w, C), row-major over ``grid``.
        skip: (B, C1, 2h, 2w) of the images, or None.
        image_index: (R,) long, the image of each region.

    Returns:
        (R, C1, 2h, 2w).
    """
    image = tokens.transpose(1, 2).unflatten(2, grid)
    out = F.conv_transpose2d(image, convolution_weight(upscaling.first_weight), upscaling.first_bias, stride=2)
    if skip is not None:
        out = out + skip[image_index]
    out = F.layer_norm(
        out.movedim(1, 3), out.shape[1:2], upscaling.norm_weight, upscaling.norm_bias, upscaling.eps
    ).movedim(3, 1)
    return F.gelu(out)


def masks_reference(
    tokens: Tensor,
    grid: tuple[int, int],
    hyper: Tensor,
    upscaling: PackedUpscaling,
    skips: tuple[Tensor, Tensor] | None,
    image_index: Tensor,
) -> Tensor:
    """The logits of ``mask_tail``."""
    finer, fine = skips or (None, None)
    out = upscale_stage1(tokens, grid, upscaling, fine, image_index)
    out = F.conv_transpose2d(out, convolution_weight(upscaling.second_weight), upscaling.second_bias, stride=2)
    if finer is not None:
        out = out + finer[image_index]
    out = F.gelu(out)
    return (hyper @ out.flatten(2)).unflatten(2, out.shape[-2:])


def mask_tail_reference(
    tokens: Tensor,
    grid: tuple[int, int],
    hyper: Tensor,
    upscaling: PackedUpscaling,
    skips: tuple[Tensor, Tensor] | None,
    image_index: Tensor,
    delta: float = DELTA,
) -> tuple[Tensor, Tensor]:
    """See ``mask_tail``."""
    logits = masks_reference(tokens, grid, hyper, upscaling, skips, image_index)
    return logits, mask_counts(logits.detach(), delta)


def mask_counts(logits: Tensor, delta: float = DELTA) -> Tensor:
    """(R, M, H, W) -> (R, M, 3) int32: pixels above -delta, above 0 and above +delta."""
    # As tensors, which need not become numbers, so that torch.compile goes through.
    bounds = (torch.tensor(bound, dtype=logits.dtype) for bound in (-delta, 0.0, delta))
    counts = [(logits > bound).sum((2, 3), dtype=torch.int32) for bound in bounds]
    return torch.stack(counts, dim=-1)


def select_reference(counts: Tensor, iou: Tensor, mask_tokens: Tensor, threshold: float) -> Selected:
    """See ``select_token``."""
    outer, inner = counts[:, 0, 0].float(), counts[:, 0, 2].float()
    stability = torch.where(outer > 0, inner / outer.clamp(min=1), torch.ones_like(outer))
    best = iou[:, 1:].argmax(1) + 1
    index = torch.where(stability >= threshold, torch.zeros_like(best), best)
    rows = torch.arange(len(index), device=index.device)
    tokens = torch.stack([mask_tokens[rows, index], mask_tokens[:, 0]], dim=1)
    return Selected(index, stability, tokens, counts[rows, index, 1])
