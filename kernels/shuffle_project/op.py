"""``shuffle_project``: neighbours merged and projected, as one node of autograd, by Triton or by torch."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pam_kit.kernels.dispatch import Kernels, backend, interpreting
from pam_kit.kernels.shuffle_project import reference
from pam_kit.kernels.shuffle_project.reference import Shuffle, TokenOrder, project

Stored = Literal["preactivation", "nothing"]
TYPES = (torch.float32, torch.bfloat16, torch.float16)

library = torch.library.Library("pam_kit", "FRAGMENT")
library.define(
    "shuffle_project(Tensor tokens, Tensor weight, Tensor? bias, Tensor? second_weight, Tensor? second_bias, "
    "Tensor? kept, SymInt[2] grid, int ratio, bool column, bool gelu, bool store) -> (Tensor, Tensor)"
)
library.define(
    "shuffle_project_backward(Tensor upstream, Tensor preactivation, Tensor tokens, Tensor weight, Tensor? bias, "
    "Tensor? second_weight, Tensor? kept, SymInt[2] grid, int ratio, bool column, bool gelu, bool for_tokens, "
    "bool for_weights) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def shuffle_project(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    second_weight: Tensor | None = None,
    second_bias: Tensor | None = None,
    *,
    grid: tuple[int, int],
    ratio: int,
    order: TokenOrder = "row",
    kept: Tensor | None = None,
    gelu: bool = True,
    store: Stored = "preactivation",
    kernels: Kernels = "auto",
) -> Tensor:
    """Merge each ratio x ratio square of neighbours into one token and project it: PAM's projector (section 3.1).

    Args:
        tokens: (R, h*w, C), row-major over ``grid``; float32, bfloat16 or float16, of any strides.
        weight: (N, ratio^2*C) as of ``nn.Linear``; input channel (dy*ratio + dx)*C + c is channel c of the neighbour
            at (dy, dx).
        bias: (N,).
        second_weight: (D, N) of a second projection behind the activation.
        second_bias: (D,).
        grid: (h, w), both multiples of ``ratio``.
        ratio: 1, 2 or 4.
        order: order of the merged tokens; released PAM checkpoints expect ``column``.
        kept: (K,) or (R, K) indices of merged tokens, none twice for a region; the others are not computed.
        gelu: whether the exact GELU follows the first projection; a second one needs it.
        store: what is kept for the backward pass of the Triton kernels beside the inputs: the pre-activation, or
            nothing, and it is computed again. torch keeps what autograd keeps.
        kernels: see ``pam_kit.kernels.dispatch.backend``. Products of float32 follow
            ``torch.backends.cuda.matmul.allow_tf32``.

    Returns:
        (R, K, D), or (R, K, N) without a second projection; K is h*w/ratio^2 where ``kept`` is not given.

    Raises:
        ValueError: shapes, types or arguments do not fit each other; the message names them.
        RuntimeError: ``kernels="triton"`` where Triton cannot run.
    """
    shuffle = Shuffle(grid, ratio, order, gelu)
    _check(tokens, weight, second_weight, shuffle, store)
    kept = None if kept is None else kept.long().expand(tokens.shape[0], kept.shape[-1])
    tensors: tuple[Tensor | None, ...] = (tokens, weight, bias, second_weight, second_bias)
    if backend(kernels, tokens.device, "shuffle_project") == "torch":
        return project(tokens, weight, bias, second_weight, second_bias, kept, shuffle)
    tensors = tuple(_cast(tensor, _type(tokens)) for tensor in tensors)
    _check_types(tensors)
    if kept is not None:
        kept = kept.contiguous()
    column, keep = order == "column", store == "preactivation" and torch.is_grad_enabled()
    return torch.ops.pam_kit.shuffle_project(*tensors, kept, grid, ratio, column, gelu, keep)[0]


def _check(tokens: Tensor, weight: Tensor, second_weight: Tensor | None, shuffle: Shuffle, store: str) -> None:
    (h, w), ratio = shuffle.grid, shuffle.ratio
    if ratio not in (1, 2, 4) or h % ratio or w % ratio:
        raise ValueError(f"ratio is {ratio} for a grid of {h}x{w} tokens; it is 1, 2 or 4 and divides both sides")
    if tokens.dim() != 3 or tokens.shape[1] != h * w:
        raise ValueError(f"tokens are of shape {tuple(tokens.shape)}; a grid of {h}x{w} needs (R, {h * w}, C)")
    if weight.shape[1] != ratio**2 * tokens.shape[2]:
        raise ValueError(
            f"weight takes {weight.shape[1]} channels; {ratio}x{ratio} tokens of {tokens.shape[2]} have "
            f"{ratio**2 * tokens.shape[2]}"
        )
    if second_weight is not None and (not shuffle.gelu or second_weight.shape[1] != weight.shape[0]):
        raise ValueError(f"a second projection follows gelu=True and takes the {weight.shape[0]} channels of the first")
    if shuffle.order not in ("row", "column") or store not in ("preactivation", "nothing"):
        raise ValueError(
            f"order is {shuffle.order!r} and store is {store!r}; order is row or column, store preactivation or nothing"
        )


def _type(tokens: Tensor) -> torch.dtype:
    """The type to compute in: autocast's where it is on, as for ``nn.Linear``."""
    kind = tokens.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tokens.dtype


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return tensor.to(dtype) if tensor is not None and torch.is_autocast_enabled(tensor.device.type) else tensor


def _check_types(tensors: tuple[Tensor | None, ...]) -> None:
    types = {tensor.dtype for tensor in tensors if tensor is not None}
    if len(types) > 1 or not types <= set(TYPES):
        raise ValueError(
            f"the Triton kernels of shuffle_project take tensors of one type, float32, bfloat16 or float16; "
            f"given are {', '.join(sorted(map(str, types)))}"
        )


def _steps(tensor: Tensor):
    """The module whose functions compute: Triton's launches on a GPU and under the interpreter, else plain torch."""
    if tensor.is_cuda or interpreting():
        from pam_kit.kernels.shuffle_project import launch

        return launch
    return reference


def _forward(
    tokens: Tensor, weight: Tensor, bias: Tensor | None, second_weight: Tensor | None, second_bias: Tensor | None,
    kept: Tensor | None, grid: list[int], ratio: int, column: bool, gelu: bool, store: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    shuffle = _shuffle(grid, ratio, column, gelu)
    out, preactivation = _steps(tokens).first_layer(tokens, weight, bias, kept, shuffle, store)
    return (out if second_weight is None else F.linear(out, second_weight, second_bias)), preactivation


def _backward(
    upstream: Tensor, preactivation: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor | None,
    second_weight: Tensor | None, kept: Tensor | None, grid: list[int], ratio: int, column: bool, gelu: bool,
    for_tokens: bool, for_weights: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Derivatives by tokens, weight, bias, second weight and second bias; empty where they are not asked for."""
    steps, shuffle, nothing = _steps(tokens), _shuffle(grid, ratio, column, gelu), upstream.new_empty
    if gelu and not preactivation.numel():
        linear = shuffle._replace(gelu=False)
        preactivation, _ = steps.first_layer(tokens, weight, bias, kept, linear, False)
    by_second, by_second_bias = nothing(0), nothing(0)
    if second_weight is not None:
        if for_weights:
            by_second = upstream.flatten(0, 1).mT @ F.gelu(preactivation).flatten(0, 1)
            by_second_bias = upstream.sum((0, 1))
        upstream = upstream @ second_weight
    if gelu:
        upstream, by_bias = steps.slopes(upstream, preactivation)
    else:
        by_bias = upstream.sum((0, 1))
    by_tokens = steps.tokens_gradient(upstream, weight, kept, shuffle, tokens.shape) if for_tokens else nothing(0)
    if not for_weights:
        return by_tokens, nothing(0), nothing(0), by_second, by_second_bias
    return by_tokens, steps.weight_gradient(upstream, tokens, kept, shuffle), by_bias, by_second, by_second_bias


def _shuffle(grid: list[int], ratio: int, column: bool, gelu: bool) -> Shuffle:
    return Shuffle((grid[0], grid[1]), ratio, "column" if column else "row", gelu)


def _fake_forward(tokens, weight, bias, second_weight, second_bias, kept, grid, ratio, column, gelu, store):
    count = grid[0] * grid[1] // ratio**2 if kept is None else kept.shape[1]
    first = tokens.new_empty(tokens.shape[0], count, weight.shape[0])
    out = first if second_weight is None else tokens.new_empty(*first.shape[:2], second_weight.shape[0])
    return out, torch.empty_like(first) if store and gelu else tokens.new_empty(0)


def _fake_backward(
    upstream, preactivation, tokens, weight, bias, second_weight, kept, grid, ratio, column, gelu, for_tokens,
    for_weights,
):  # fmt: skip
    nothing, two = upstream.new_empty(0), second_weight is not None and for_weights
    return (
        upstream.new_empty(tokens.shape) if for_tokens else nothing,
        upstream.new_empty(weight.shape) if for_weights else upstream.new_empty(0),
        upstream.new_empty(weight.shape[0]) if for_weights else upstream.new_empty(0),
        upstream.new_empty(second_weight.shape) if two else upstream.new_empty(0),
        upstream.new_empty(second_weight.shape[0]) if two else upstream.new_empty(0),
    )


def _remember(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    tokens, weight, bias, second_weight, second_bias, kept, *ctx.settings, _ = inputs
    ctx.has_bias, ctx.has_second_bias = bias is not None, second_bias is not None
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], tokens, weight, bias, second_weight, kept)


def _differentiate(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    asked = ctx.needs_input_grad
    by = torch.ops.pam_kit.shuffle_project_backward(
        upstream.contiguous(), *ctx.saved_tensors, *ctx.settings, asked[0], any(asked[1:5])
    )
    return *(gradient if needed else None for gradient, needed in zip(by, asked, strict=False)), *(None,) * 6


for _key in ("CPU", "CUDA"):
    library.impl("shuffle_project", _forward, _key)
    library.impl("shuffle_project_backward", _backward, _key)
torch.library.register_fake("pam_kit::shuffle_project", _fake_forward, lib=library)
torch.library.register_fake("pam_kit::shuffle_project_backward", _fake_backward, lib=library)
torch.library.register_autograd("pam_kit::shuffle_project", _differentiate, setup_context=_remember, lib=library)
