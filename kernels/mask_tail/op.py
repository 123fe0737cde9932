"""The registered operators and the functions that people call."""

import torch
from torch import Tensor

from pam_kit.kernels.dispatch import Kernels, backend, interpreting, say_once
from pam_kit.kernels.mask_tail.packing import PackedUpscaling
from pam_kit.kernels.mask_tail.reference import DELTA, Selected, mask_tail_reference, select_reference
from pam_kit.kernels.mask_tail.table import MAX_MASKS, obstacle

NAME = "mask_tail"

_library = torch.library.Library("pam_kit", "FRAGMENT")
_library.define(
    "mask_tail(Tensor tokens, SymInt[] grid, Tensor hyper, Tensor w1, Tensor b1, Tensor norm_weight, Tensor norm_bias, "
    "Tensor w2, Tensor b2, float eps, Tensor? finer, Tensor? fine, Tensor image_index, float delta) -> (Tensor, Tensor)"
)
_library.define(
    "select_token(Tensor counts, Tensor iou, Tensor mask_tokens, float threshold) -> (Tensor, Tensor, Tensor, Tensor)"
)


def mask_tail(
    tokens: Tensor,
    grid: tuple[int, int],
    hyper: Tensor,
    upscaling: PackedUpscaling,
    skips: tuple[Tensor, Tensor] | None,
    image_index: Tensor,
    delta: float = DELTA,
    kernels: Kernels = "auto",
) -> tuple[Tensor, Tensor]:
    """What follows SAM 2's two-way transformer: upscaling, masks, and their pixels above three thresholds.

    The Triton kernels are for inference; with gradients plain torch runs, and the log says so once. Under autocast the
    types are those of the products.

    Args:
        tokens: (R, h*w, C), the transformer's image stream, row-major over ``grid``.
        grid: (h, w).
        hyper: (R, M, C2), what the mask hyper-networks made of the mask tokens.
        upscaling: from ``pack_upscaling``.
        skips: skip features of B images, (B, C2, 4h, 4w) and (B, C1, 2h, 2w), or None. Channels-last memory saves a
            copy.
        image_index: (R,) long: regions of an image share its skip features.
        delta: of the stability score; rounded to the logits' type, in which SAM 2 compares.
        kernels: auto, triton or torch.

    Returns:
        Logits (R, M, 4h, 4w), and counts (R, M, 3) int32 of those above -delta, above 0 (the area) and above +delta.

    Raises:
        ValueError: shapes or types that do not fit.
        RuntimeError: see ``dispatch.backend``.
    """
    _check(tokens, grid, hyper, upscaling, skips)
    if _chosen(tokens, hyper, upscaling, skips, kernels) == "torch":
        return mask_tail_reference(tokens, grid, hyper, upscaling, skips, image_index, delta)
    tensors = _cast(tokens, hyper, *upscaling.tensors, *(skips or ()))
    tokens, hyper, weights, images = tensors[0], tensors[1], tensors[2:8], tensors[8:] or (None, None)
    return torch.ops.pam_kit.mask_tail(tokens, grid, hyper, *weights, upscaling.eps, *images, image_index, delta)


def select_token(
    counts: Tensor, iou: Tensor, mask_tokens: Tensor, threshold: float, kernels: Kernels = "auto"
) -> Selected:
    """The first mask where it is stable, else that of the others with the highest predicted IoU (SAM 2 at inference).

    Args:
        counts: (R, M, 3) of ``mask_tail``.
        iou: (R, M).
        mask_tokens: (R, M, C).
        threshold: least stability of the first mask.
    """
    if not counts.shape[:2] == iou.shape == mask_tokens.shape[:2] or iou.shape[1] < 2:
        shapes = ", ".join(str(tuple(t.shape)) for t in (counts, iou, mask_tokens))
        raise ValueError(f"counts, IoU and mask tokens are of shapes {shapes}; they need the same R and M, M above 1")
    with_gradient = torch.is_grad_enabled() and mask_tokens.requires_grad
    if backend(kernels, iou.device, NAME) == "torch" or with_gradient or iou.shape[1] > MAX_MASKS:
        return select_reference(counts, iou, mask_tokens, threshold)
    return Selected(*torch.ops.pam_kit.select_token(counts, iou, mask_tokens, threshold))


def _chosen(
    tokens: Tensor,
    hyper: Tensor,
    upscaling: PackedUpscaling,
    skips: tuple[Tensor, Tensor] | None,
    kernels: Kernels,
) -> str:
    if backend(kernels, tokens.device, NAME) == "torch":
        return "torch"
    first, second = upscaling.first_weight.shape[2], upscaling.second_weight.shape[2]
    problem = obstacle(first, second, hyper.shape[1])
    if tokens.dtype == torch.float64:
        problem = "the kernels sum in float32 and the tokens are float64"
    inputs = (tokens, hyper, *upscaling.tensors, *(skips or ()))
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        problem = "the Triton kernels have no gradient"
    if problem and not torch.compiler.is_compiling():
        say_once(f"{NAME}: plain torch, since {problem}")
    return "torch" if problem else "triton"


def _check(tokens: Tensor, grid, hyper: Tensor, upscaling: PackedUpscaling, skips) -> None:
    (channels, _, first), second = upscaling.first_weight.shape, upscaling.second_weight.shape[2]
    (h, w), regions = grid, tokens.shape[0]
    wanted: dict[str, tuple[Tensor, tuple[int, ...]]] = {
        "tokens": (tokens, (regions, h * w, channels)),
        "hyper": (hyper, (regions, hyper.shape[1], second)),
    }
    if skips is not None:
        finer, fine = skips
        wanted["finer skip features"] = (finer, (finer.shape[0], second, 4 * h, 4 * w))
        wanted["fine skip features"] = (fine, (finer.shape[0], first, 2 * h, 2 * w))
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} are of shape {tuple(tensor.shape)}; a grid of {h}x{w} takes {shape}")


def _cast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All in the type of the products under autocast."""
    kind = tensors[0].device.type
    if torch.is_autocast_enabled(kind):
        return tuple(tensor.to(torch.get_autocast_dtype(kind)) for tensor in tensors)
    types = {tensor.dtype for tensor in tensors}
    if len(types) > 1:
        raise ValueError(f"tokens, weights and skips are of different types: {', '.join(sorted(map(str, types)))}")
    return tensors


def _tail_plain(tokens, grid, hyper, w1, b1, norm_weight, norm_bias, w2, b2, eps, finer, fine, image_index, delta):
    upscaling = PackedUpscaling(w1, b1, norm_weight, norm_bias, w2, b2, eps)
    skips = None if finer is None else (finer, fine)
    logits, counts = mask_tail_reference(tokens, tuple(grid), hyper, upscaling, skips, image_index, delta)
    return logits.contiguous(), counts


def _tail_cpu(*arguments):
    return (_tail_triton if interpreting() else _tail_plain)(*arguments)


def _tail_triton(tokens, grid, hyper, w1, b1, norm_weight, norm_bias, w2, b2, eps, finer, fine, image_index, delta):
    from pam_kit.kernels.mask_tail.launch import channels_last, launch_stage1, launch_tail

    w1, b1, norm_weight, norm_bias, w2, b2 = (t.contiguous() for t in (w1, b1, norm_weight, norm_bias, w2, b2))
    image_index = image_index.contiguous()
    embedding = launch_stage1(
        tokens, list(grid), [w1, b1, norm_weight, norm_bias], eps, channels_last(fine), image_index
    )
    return launch_tail(embedding, [w2, b2], channels_last(finer), image_index, hyper, delta)


def _tail_fake(tokens, grid, hyper, w1, b1, norm_weight, norm_bias, w2, b2, eps, finer, fine, image_index, delta):
    logits = tokens.new_empty(tokens.shape[0], hyper.shape[1], 4 * grid[0], 4 * grid[1])
    return logits, tokens.new_empty(tokens.shape[0], hyper.shape[1], 3, dtype=torch.int32)


def _select_cpu(counts, iou, mask_tokens, threshold):
    run = _select_triton if interpreting() else select_reference
    return tuple(run(counts, iou, mask_tokens, threshold))


def _select_triton(counts, iou, mask_tokens, threshold):
    from pam_kit.kernels.mask_tail.launch import launch_select

    return tuple(launch_select(counts, iou, mask_tokens, threshold))


def _select_fake(counts, iou, mask_tokens, threshold):
    regions, _, channels = mask_tokens.shape
    index, stability = counts.new_empty(regions, dtype=torch.long), counts.new_empty(regions, dtype=torch.float32)
    return index, stability, mask_tokens.new_empty(regions, 2, channels), counts.new_empty(regions)


for _name, _cpu, _cuda, _fake in (
    ("mask_tail", _tail_cpu, _tail_triton, _tail_fake),
    ("select_token", _select_cpu, _select_triton, _select_fake),
):
    _library.impl(_name, _cpu, "CPU")
    _library.impl(_name, _cuda, "CUDA")
    torch.library.register_fake(f"pam_kit::{_name}", _fake, lib=_library)
