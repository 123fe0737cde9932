"""The definition of the pixel shuffle and its projection in plain torch."""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TokenOrder = Literal["row", "column"]


def merge_neighbours(tokens: Tensor, grid: tuple[int, int], ratio: int, order: TokenOrder = "row") -> Tensor:
    """Merge each ``ratio`` x ``ratio`` square of neighbours into one token.

    Args:
        tokens: (R, h*w, C), row-major over ``grid``.
        grid: (h, w), both multiples of ``ratio``.
        order: order of the merged tokens; released PAM checkpoints expect ``column``.

    Returns:
        (R, h*w/ratio^2, ratio^2*C); channel (dy*ratio + dx)*C + c holds channel c of the neighbour at (dy, dx).
    """
    (h, w), channels = grid, tokens.shape[-1]
    if h % ratio or w % ratio:
        raise ValueError(
            f"a grid of {h}x{w} tokens cannot be merged {ratio}x{ratio}: both sides must be multiples of it"
        )
    squares = tokens.unflatten(1, (h // ratio, ratio, w // ratio, ratio))  # (R, Y, dy, X, dx, C)
    axes = (0, 1, 3, 2, 4, 5) if order == "row" else (0, 3, 1, 2, 4, 5)
    return squares.permute(axes).reshape(-1, h * w // ratio**2, ratio**2 * channels)


def part_neighbours(merged: Tensor, grid: tuple[int, int], ratio: int, order: TokenOrder = "row") -> Tensor:
    """The inverse of ``merge_neighbours``: (R, h*w/ratio^2, ratio^2*C) -> (R, h*w, C)."""
    (h, w), channels = grid, merged.shape[-1] // ratio**2
    squares = merged.unflatten(2, (ratio, ratio, channels))
    if order == "row":
        squares = squares.unflatten(1, (h // ratio, w // ratio)).permute(0, 1, 3, 2, 4, 5)
    else:
        squares = squares.unflatten(1, (w // ratio, h // ratio)).permute(0, 2, 3, 1, 4, 5)
    return squares.reshape(-1, h * w, channels)


class Shuffle(NamedTuple):
    """What is merged, and in which order; ``gelu`` says whether the activation follows the first projection."""

    grid: tuple[int, int]
    ratio: int
    order: TokenOrder
    gelu: bool


def gather(tokens: Tensor, kept: Tensor | None, shuffle: Shuffle) -> Tensor:
    """The merged tokens, only those of ``kept`` (R, K) where given: (R, K, ratio^2*C)."""
    merged = merge_neighbours(tokens, shuffle.grid, shuffle.ratio, shuffle.order)
    return merged if kept is None else merged.take_along_dim(kept[..., None], 1)


def project(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    second_weight: Tensor | None,
    second_bias: Tensor | None,
    kept: Tensor | None,
    shuffle: Shuffle,
) -> Tensor:
    """``shuffle_project`` as torch writes it; see there for the shapes."""
    out = F.linear(gather(tokens, kept, shuffle), weight, bias)
    out = F.gelu(out) if shuffle.gelu else out
    return out if second_weight is None else F.linear(out, second_weight, second_bias)


def first_layer(
    tokens: Tensor, weight: Tensor, bias: Tensor | None, kept: Tensor | None, shuffle: Shuffle, store: bool
) -> tuple[Tensor, Tensor]:
    """(R, K, N) after the activation, and the pre-activation where ``store``, else something empty."""
    before = F.linear(gather(tokens, kept, shuffle), weight, bias)
    return (F.gelu(before), before if store else before.new_empty(0)) if shuffle.gelu else (before, before.new_empty(0))


def slopes(upstream: Tensor, preactivation: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives by the pre-activation, (R, K, N), and by the bias, (N,)."""
    before = preactivation.float()
    out = upstream.float() * (
        0.5 * (1 + torch.erf(before * 0.5**0.5)) + before * (-0.5 * before**2).exp() / math.tau**0.5
    )
    return out.to(upstream.dtype), out.sum((0, 1)).to(upstream.dtype)


def tokens_gradient(
    upstream: Tensor, weight: Tensor, kept: Tensor | None, shuffle: Shuffle, shape: torch.Size
) -> Tensor:
    """Derivative by the tokens, (R, h*w, C)."""
    merged = upstream @ weight
    if kept is not None:
        whole = merged.new_zeros(shape[0], shape[1] // shuffle.ratio**2, merged.shape[-1])
        merged = whole.scatter_(1, kept[..., None].expand_as(merged), merged)
    return part_neighbours(merged, shuffle.grid, shuffle.ratio, shuffle.order)


def weight_gradient(upstream: Tensor, tokens: Tensor, kept: Tensor | None, shuffle: Shuffle) -> Tensor:
    """Derivative by the weight, (N, ratio^2*C)."""
    return upstream.flatten(0, 1).mT @ gather(tokens, kept, shuffle).flatten(0, 1)
