"""The mask kernels called with tensors. Importing it needs Triton."""

from contextlib import nullcontext

import torch
from torch import Tensor

from pam_kit.kernels.mask_tail import fused, table
from pam_kit.kernels.mask_tail.reference import Selected, rounded_delta


def launch_stage1(
    tokens: Tensor, grid: list[int], weights: list[Tensor], eps: float, skip: Tensor | None, image_index: Tensor
) -> Tensor:
    """(R, h*w, C) -> (R, 2h, 2w, C1): ``upscale_stage1`` of the reference with channels last.

    Args:
        weights: weight and bias of the convolution, weight and bias of the norm.
        skip: (B, 2h, 2w, C1), contiguous, or None.
    """
    (height, width), (channels, _, first) = grid, weights[0].shape
    tokens = tokens if tokens.stride(2) == 1 else tokens.contiguous()
    out = tokens.new_empty(len(tokens), 2 * height, 2 * width, first)
    plan = table.stage1(channels, first, _kind(tokens))
    programs = len(tokens) * -(-height * width // plan.constants["BLOCK_P"])
    if programs:
        with _on(tokens):
            fused.upscale_stage1[(programs,)](
                tokens, *weights[:2], out if skip is None else skip, *weights[2:], image_index, out, height * width,
                width, tokens.stride(0), tokens.stride(1), eps, SKIP=skip is not None, **_options(plan, tokens),
            )  # fmt: skip
    return out


def launch_tail(
    embedding: Tensor, weights: list[Tensor], skip: Tensor | None, image_index: Tensor, hyper: Tensor, delta: float
) -> tuple[Tensor, Tensor]:
    """(R, H, W, C1), contiguous -> logits (R, M, 2H, 2W) and counts (R, M, 3) int32.

    Args:
        weights: weight and bias of the second convolution.
        skip: (B, 2H, 2W, C2), contiguous, or None.
    """
    (regions, height, width, first), second, masks = embedding.shape, weights[0].shape[2], hyper.shape[1]
    hyper = hyper if hyper.stride(2) == 1 else hyper.contiguous()
    plan = table.tail(first, second, masks, _kind(embedding))
    blocks = height * -(-width // plan.constants["BLOCK_X"])
    logits = embedding.new_empty(regions, masks, 2 * height, 2 * width)
    counts = torch.empty(regions, blocks, masks, 3, dtype=torch.int32, device=embedding.device)
    if regions:
        with _on(embedding):
            fused.upscale_mask_tail[(regions * blocks,)](
                embedding, *weights, logits if skip is None else skip, hyper, image_index, logits, counts, height,
                width, hyper.stride(0), hyper.stride(1), rounded_delta(logits.dtype, delta), SKIP=skip is not None,
                **_options(plan, embedding),
            )  # fmt: skip
    return logits, counts.sum(1, dtype=torch.int32)


def launch_select(counts: Tensor, iou: Tensor, mask_tokens: Tensor, threshold: float) -> Selected:
    """See ``select_token``."""
    regions, masks, channels = mask_tokens.shape
    counts = counts.contiguous()
    mask_tokens = mask_tokens if mask_tokens.stride(2) == 1 else mask_tokens.contiguous()
    index = torch.empty(regions, dtype=torch.long, device=counts.device)
    stability = torch.empty(regions, dtype=torch.float32, device=counts.device)
    tokens, area = mask_tokens.new_empty(regions, 2, channels), counts.new_empty(regions)
    plan = table.select(channels, masks)
    if regions:
        with _on(counts):
            fused.select_token[(regions,)](
                counts, iou, mask_tokens, index, stability, tokens, area, *iou.stride(), *mask_tokens.stride()[:2],
                threshold, **plan.constants, num_warps=plan.warps, num_stages=plan.stages,
            )  # fmt: skip
    return Selected(index, stability, tokens, area)


def channels_last(skip: Tensor | None) -> Tensor | None:
    """(B, C, H, W) -> (B, H, W, C), contiguous; no copy where the memory lies so already."""
    return None if skip is None else skip.permute(0, 2, 3, 1).contiguous()


def _kind(tensor: Tensor) -> table.Kind:
    """float32 is multiplied as torch's own products are."""
    if tensor.dtype != torch.float32:
        return "half"
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"


def _options(plan: table.Plan, tensor: Tensor) -> dict[str, object]:
    kind = _kind(tensor)
    precision = "tf32" if kind == "half" else kind
    return {**plan.constants, "PRECISION": precision, "num_warps": plan.warps, "num_stages": plan.stages}


def _on(tensor: Tensor):
    """Triton launches on the current device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
