"""The registered operator, with its gradient, and the functions that people call."""

import torch
from torch import Tensor

from pam_kit.kernels.dispatch import Kernels, backend, interpreting, say_once
from pam_kit.kernels.parallel_heads.packing import PackedHeads
from pam_kit.kernels.parallel_heads.reference import heads_backward, heads_bmm, semantic_mlp
from pam_kit.kernels.parallel_heads.table import Sizes, obstacle

NAME = "parallel_heads"

_library = torch.library.Library("pam_kit", "FRAGMENT")
_library.define(
    "parallel_heads(Tensor tokens, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor w3, Tensor b3, int[] squashed) "
    "-> Tensor"
)
_library.define(
    "parallel_heads_backward(Tensor grad, Tensor tokens, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor w3, "
    "Tensor b3, int[] squashed) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "heads_and_semantic(Tensor tokens, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor w3, Tensor b3, "
    "int[] squashed, Tensor x, Tensor v1, Tensor c1, Tensor v2, Tensor c2) -> (Tensor, Tensor)"
)


def parallel_heads(tokens: Tensor, heads: PackedHeads, kernels: Kernels = "auto") -> Tensor:
    """All small heads of a mask decoder: head i applied to token i of each region.

    Under autocast the types are those of the products. Gradients are computed in plain torch, from the inputs.

    Args:
        tokens: (R, T, C) with T >= H; the H tokens come first, as in SAM 2's decoder: object score, IoU, masks.
        heads: from ``pack_heads``.
        kernels: auto, triton or torch.

    Returns:
        (R, H, O); of a head with fewer outputs only the first are its own.

    Raises:
        ValueError: shapes or types that do not fit.
        RuntimeError: see ``dispatch.backend``.
    """
    _check(tokens, heads)
    if _chosen(tokens, heads, kernels) == "torch":
        return heads_bmm(tokens, heads)
    tokens, weights = _cast(tokens, heads.tensors)
    return torch.ops.pam_kit.parallel_heads(tokens, *weights, list(heads.squashed))


def heads_and_semantic(
    tokens: Tensor, heads: PackedHeads, semantic: tuple[Tensor, ...], kernels: Kernels = "auto"
) -> tuple[Tensor, Tensor]:
    """``parallel_heads`` and the two-layer map of the semantic tokens, in one launch.

    Only where the semantic tokens are known when the heads run: they are not where a perceiver reads the token of a
    mask selected by its stability. For inference; with gradients both run by themselves, the map in plain torch.

    Args:
        semantic: tokens (R, N, C), then weight and bias of C -> E and of E -> D, with GELU between them.

    Returns:
        (R, H, O) and (R, N, D).
    """
    _check(tokens, heads)
    chosen = _chosen(tokens, heads, kernels)
    if (
        chosen == "triton"
        and torch.is_grad_enabled()
        and any(t.requires_grad for t in (tokens, *heads.tensors, *semantic))
    ):
        say_once("heads_and_semantic has no gradient; with gradients heads and semantic tokens run apart")
        return parallel_heads(tokens, heads, kernels), semantic_mlp(*semantic)
    if chosen == "torch":
        return heads_bmm(tokens, heads), semantic_mlp(*semantic)
    tokens, weights = _cast(tokens, heads.tensors)
    _, extra = _cast(tokens, semantic)
    return torch.ops.pam_kit.heads_and_semantic(tokens, *weights, list(heads.squashed), *extra)


def _chosen(tokens: Tensor, heads: PackedHeads, kernels: Kernels) -> str:
    chosen = backend(kernels, tokens.device, NAME)
    if chosen == "triton" and (problem := _obstacle(tokens, heads)):
        say_once(f"{NAME}: plain torch, since {problem}")
        return "torch"
    return chosen


def _obstacle(tokens: Tensor, heads: PackedHeads) -> str:
    if tokens.dtype == torch.float64:
        return "the kernel sums in float32 and the tokens are float64"
    count, hidden, width = heads.first_weight.shape
    return obstacle(Sizes(count, width, hidden, heads.last_weight.shape[1]))


def _check(tokens: Tensor, heads: PackedHeads) -> None:
    num_heads, _, width = heads.first_weight.shape
    if tokens.ndim != 3 or tokens.shape[1] < num_heads or tokens.shape[2] != width:
        raise ValueError(
            f"tokens are of shape {tuple(tokens.shape)}; {num_heads} heads of width {width} read (R, T, {width}) with "
            f"T of at least {num_heads}"
        )


def _cast(tokens: Tensor, others: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All in the type of the products under autocast."""
    kind = tokens.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        return tokens.to(dtype), tuple(other.to(dtype) for other in others)
    types = {tensor.dtype for tensor in (tokens, *others)}
    if len(types) > 1:
        raise ValueError(f"tokens and weights are of different types: {', '.join(sorted(map(str, types)))}")
    return tokens, others


def _heads_plain(tokens, w1, b1, w2, b2, w3, b3, squashed):
    with torch.no_grad():
        return heads_bmm(tokens, PackedHeads(w1, b1, w2, b2, w3, b3, tuple(squashed))).contiguous()


def _heads_cpu(tokens, w1, b1, w2, b2, w3, b3, squashed):
    run = _heads_triton if interpreting() else _heads_plain
    return run(tokens, w1, b1, w2, b2, w3, b3, squashed)


def _heads_triton(tokens, w1, b1, w2, b2, w3, b3, squashed):
    from pam_kit.kernels.parallel_heads.launch import launch_heads

    return launch_heads(tokens, [w1, b1, w2, b2, w3, b3], squashed, [])[0]


def _heads_fake(tokens, w1, b1, w2, b2, w3, b3, squashed):
    return tokens.new_empty(tokens.shape[0], w1.shape[0], w3.shape[1])


def _backward(grad, tokens, w1, b1, w2, b2, w3, b3, squashed):
    heads = PackedHeads(w1, b1, w2, b2, w3, b3, tuple(squashed))
    return tuple(gradient.contiguous() for gradient in heads_backward(grad, tokens, heads))


def _backward_fake(grad, tokens, w1, b1, w2, b2, w3, b3, squashed):
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (tokens, w1, b1, w2, b2, w3, b3))


def _save(ctx, inputs, output):
    *tensors, ctx.squashed = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx, grad):
    return *torch.ops.pam_kit.parallel_heads_backward(grad, *ctx.saved_tensors, ctx.squashed), None


def _both_cpu(tokens, w1, b1, w2, b2, w3, b3, squashed, *semantic):
    if interpreting():
        return _both_triton(tokens, w1, b1, w2, b2, w3, b3, squashed, *semantic)
    return _heads_plain(tokens, w1, b1, w2, b2, w3, b3, squashed), semantic_mlp(*semantic)


def _both_triton(tokens, w1, b1, w2, b2, w3, b3, squashed, *semantic):
    from pam_kit.kernels.parallel_heads.launch import launch_heads

    return launch_heads(tokens, [w1, b1, w2, b2, w3, b3], squashed, list(semantic))


def _both_fake(tokens, w1, b1, w2, b2, w3, b3, squashed, x, v1, c1, v2, c2):
    return _heads_fake(tokens, w1, b1, w2, b2, w3, b3, squashed), x.new_empty(*x.shape[:2], v2.shape[0])


for _name, _cpu, _cuda, _fake in (
    ("parallel_heads", _heads_cpu, _heads_triton, _heads_fake),
    ("parallel_heads_backward", _backward, _backward, _backward_fake),
    ("heads_and_semantic", _both_cpu, _both_triton, _both_fake),
):
    _library.impl(_name, _cpu, "CPU")
    _library.impl(_name, _cuda, "CUDA")
    torch.library.register_fake(f"pam_kit::{_name}", _fake, lib=_library)
torch.library.register_autograd("pam_kit::parallel_heads", _gradient, setup_context=_save, lib=_library)
