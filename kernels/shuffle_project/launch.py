"""The four steps of ``reference`` as launches of Triton kernels: same arguments, same results."""

from contextlib import nullcontext

import torch
from torch import Tensor

from pam_kit.kernels.shuffle_project.fused import forward_kernel, slope_kernel, tokens_kernel, weight_kernel
from pam_kit.kernels.shuffle_project.reference import Shuffle
from pam_kit.kernels.shuffle_project.table import (
    SLOPE_COLUMNS,
    SLOPE_PART,
    SLOPE_ROWS,
    count_tiles,
    parts_of_sum,
    step_within,
    tile,
)


def first_layer(
    tokens: Tensor, weight: Tensor, bias: Tensor | None, kept: Tensor | None, shuffle: Shuffle, store: bool
) -> tuple[Tensor, Tensor]:
    """(R, K, N) after the activation, and the pre-activation where ``store``, else something empty."""
    tokens, weight = _dense_channels(tokens), weight.contiguous()
    count, channels, outputs = _count(tokens, kept, shuffle), tokens.shape[2], weight.shape[0]
    out = tokens.new_empty(tokens.shape[0], count, outputs)
    preactivation = torch.empty_like(out) if store and shuffle.gelu else tokens.new_empty(0)
    rows = out.shape[0] * count
    chosen = tile("forward", _kind(tokens), rows, outputs)
    step = step_within(channels, chosen.step)
    if out.numel():
        with _on(tokens):
            forward_kernel[(count_tiles(rows, outputs, chosen),)](
                tokens, weight, bias, kept, out, preactivation, rows, outputs, channels, count, *_map(shuffle),
                *tokens.stride()[:2], BIAS=bias is not None, GELU=shuffle.gelu, STORE=store and shuffle.gelu,
                EVEN=channels % step == 0, BLOCK_M=chosen.rows, BLOCK_N=chosen.columns, BLOCK_K=step,
                **_shared(tokens, kept, shuffle, chosen),
            )  # fmt: skip
    return out, preactivation


def slopes(upstream: Tensor, preactivation: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives by the pre-activation, (R, K, N), and by the bias, (N,): sums of parts, in a fixed order."""
    upstream, outputs = upstream.contiguous(), upstream.shape[2]
    rows = upstream.shape[0] * upstream.shape[1]
    out = torch.empty_like(upstream)
    parts = upstream.new_empty(-(-rows // SLOPE_PART), outputs, dtype=torch.float32)
    if out.numel():
        with _on(upstream):
            slope_kernel[(parts.shape[0], -(-outputs // SLOPE_COLUMNS))](
                upstream, preactivation, out, parts, rows, outputs,
                ROWS=SLOPE_PART, BLOCK_M=SLOPE_ROWS, BLOCK_N=SLOPE_COLUMNS,
            )  # fmt: skip
    return out, parts.sum(0).to(upstream.dtype)


def tokens_gradient(
    upstream: Tensor, weight: Tensor, kept: Tensor | None, shuffle: Shuffle, shape: torch.Size
) -> Tensor:
    """Derivative by the tokens, (R, h*w, C); zero where a token was not kept."""
    upstream, weight = upstream.contiguous(), weight.contiguous()
    out = upstream.new_empty(shape) if kept is None else upstream.new_zeros(shape)
    (regions, count, outputs), channels = upstream.shape, shape[2]
    rows, inputs = regions * count, weight.shape[1]
    chosen = tile("tokens", _kind(upstream), rows, inputs)
    step = step_within(channels, chosen.columns)
    tiles = -(-rows // chosen.rows) * shuffle.ratio**2 * -(-channels // step)
    if upstream.numel():
        with _on(upstream):
            tokens_kernel[(tiles,)](
                upstream, weight, kept, out, rows, outputs, channels, count, *_map(shuffle), shape[1],
                BLOCK_M=chosen.rows, BLOCK_N=chosen.step, BLOCK_K=step, **_shared(upstream, kept, shuffle, chosen),
            )  # fmt: skip
    return out


def weight_gradient(upstream: Tensor, tokens: Tensor, kept: Tensor | None, shuffle: Shuffle) -> Tensor:
    """Derivative by the weight, (N, ratio^2*C): sums of parts, in a fixed order."""
    upstream, tokens = upstream.contiguous(), _dense_channels(tokens)
    (regions, count, outputs), channels = upstream.shape, tokens.shape[2]
    rows, inputs = regions * count, shuffle.ratio**2 * channels
    if not upstream.numel():
        return upstream.new_zeros(outputs, inputs)
    chosen = tile("weight", _kind(upstream), outputs, inputs)
    step = step_within(channels, chosen.columns)
    tiles = -(-outputs // chosen.rows) * shuffle.ratio**2 * -(-channels // step)
    parts, rows_a_part = parts_of_sum(rows, tiles, chosen.step)
    out = upstream.new_empty(parts, outputs, inputs, dtype=upstream.dtype if parts == 1 else torch.float32)
    with _on(upstream):
        weight_kernel[(tiles, parts)](
            upstream, tokens, kept, out, rows, outputs, channels, count, *_map(shuffle), *tokens.stride()[:2],
            rows_a_part, BLOCK_M=chosen.step, BLOCK_N=chosen.rows, BLOCK_K=step,
            **_shared(upstream, kept, shuffle, chosen),
        )  # fmt: skip
    return out[0] if parts == 1 else out.sum(0).to(upstream.dtype)


def _map(shuffle: Shuffle) -> tuple[int, int, int]:
    """Width of the grid, height and width of the merged one."""
    (height, width), ratio = shuffle.grid, shuffle.ratio
    return width, height // ratio, width // ratio


def _shared(tensor: Tensor, kept: Tensor | None, shuffle: Shuffle, chosen) -> dict[str, object]:
    """The constants that the three products have in common."""
    return {
        "RATIO": shuffle.ratio,
        "COLUMN": shuffle.order == "column",
        "KEPT": kept is not None,
        "PRECISION": "ieee" if _kind(tensor) == "ieee" else "tf32",
        "GROUP": chosen.group,
        "num_warps": chosen.warps,
        "num_stages": chosen.stages,
    }


def _count(tokens: Tensor, kept: Tensor | None, shuffle: Shuffle) -> int:
    return tokens.shape[1] // shuffle.ratio**2 if kept is None else kept.shape[1]


def _dense_channels(tokens: Tensor) -> Tensor:
    """Strides of regions and tokens are free; channels that lie apart would be loaded one by one."""
    return tokens if tokens.stride(2) == 1 else tokens.contiguous()


def _kind(tensor: Tensor) -> str:
    if tensor.dtype != torch.float32:
        return "half"
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"


def _on(tensor: Tensor):
    """Triton launches on the current device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
