"""The definition of the pixel shuffle in plain torch."""

from typing import Literal

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
