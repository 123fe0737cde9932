"""What is measured of ``shuffle_project``: PAM-3B's projector for images and for the later frames of a clip."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pam_kit.kernels.cases import Case
from pam_kit.kernels.counting import Launch
from pam_kit.kernels.shuffle_project.op import shuffle_project
from pam_kit.kernels.shuffle_project.reference import Shuffle, merge_neighbours, project
from pam_kit.kernels.shuffle_project.table import SLOPE_PART, TILES, count_tiles, parts_of_sum

SIDE, WIDTH = 64, 256
HALF = 2
NOTE = """Both products of the projector have to be computed whatever is fused, and for many regions they take most of
the time: fusion is a matter of memory more than of speed. What it saves: the copies of the shuffle (`view` has one
left, and torch.compile folds it into what lies before), the passes over the pre-activation for bias and GELU, and in
training everything but the pre-activation, or all with `store="nothing"` for the price of the first product once more.
The backward pass moves what torch's moves: nothing is won there. Against torch.compile at most a tenth to a fifth of
the forward pass is to be won, and only if Triton's product comes close to that of cuBLAS; the projector is some 0.2% of
a region's whole answer. Frames of a clip gain most by being one batch, which `view` does already. The second projection
is not fused: its operand, 1536 channels of 128 rows, exceeds the shared memory of every card."""


def cases() -> list[Case]:
    """One image's region, many of them, and the fifteen later frames of a clip."""
    regions = [_image(regions, outputs) for regions, outputs in ((1, 1536), (16, 1536), (64, 1536), (64, 2048))]
    return [*regions, _clip(15, 1536)]


def published(tokens: Tensor, *mlp: Tensor, ratio: int) -> Tensor:
    """The projector as PAM writes it: each step of the shuffle a copy, and another for the first product."""
    regions, count, width = tokens.shape
    side, small = round(count**0.5), round(count**0.5) // ratio
    image = tokens.reshape(regions, width, side, side)
    pairs = image.view(regions, side, small, ratio * width).permute(0, 2, 1, 3).contiguous()
    squares = pairs.view(regions, small, small, ratio**2 * width).permute(0, 3, 1, 2).contiguous()
    return two_layers(squares.flatten(2).permute(0, 2, 1), *mlp)


def two_layers(merged: Tensor, weight: Tensor, bias: Tensor, second_weight: Tensor, second_bias: Tensor) -> Tensor:
    return F.linear(F.gelu(F.linear(merged, weight, bias)), second_weight, second_bias)


def _image(regions: int, outputs: int) -> Case:
    view = partial(_viewed, shuffle=Shuffle((SIDE, SIDE), 2, "column", True))
    fused = partial(shuffle_project, grid=(SIDE, SIDE), ratio=2, order="column", kernels="triton")
    rows, inputs = regions * (SIDE // 2) ** 2, 4 * WIDTH
    return Case(
        operator="shuffle_project",
        name=f"2x2 into {outputs}, {regions} region{'s' if regions > 1 else ''}",
        inputs=_inputs(regions, (outputs, inputs), (outputs, outputs)),
        providers={"eager": partial(published, ratio=2), "view": view, "triton": fused},
        forward=[_first(rows, inputs, outputs, stored=True), _product("second", rows, outputs, outputs)],
        backward=_backward(rows, inputs, outputs),
        kept=rows * outputs * HALF,
        regions=regions,
        note=NOTE,
    )


def _viewed(tokens: Tensor, *mlp: Tensor, shuffle: Shuffle) -> Tensor:
    return project(tokens, *mlp, None, shuffle)


def _clip(frames: int, outputs: int) -> Case:
    """Frames merged 4x4, narrowed to the width of an image's merged tokens; inference, so nothing is stored."""
    rows, inputs = frames * (SIDE // 4) ** 2, 16 * WIDTH
    return Case(
        operator="shuffle_project",
        name=f"4x4 into {outputs}, {frames} frames",
        inputs=_inputs(frames, (4 * WIDTH, inputs), (outputs, 4 * WIDTH), (outputs, outputs)),
        providers={"eager": _clip_published, "view": _clip_viewed, "triton": _clip_fused},
        forward=[
            _first(rows, inputs, 4 * WIDTH),
            _first(rows, 4 * WIDTH, outputs),
            _product("second", rows, outputs, outputs),
        ],
        regions=frames,
    )


def _clip_published(tokens: Tensor, weight: Tensor, bias: Tensor, *mlp: Tensor) -> Tensor:
    """PAM goes through the frames one by one."""
    merged = [_narrowed(frame, weight, bias) for frame in tokens.split(1)]
    return torch.cat([two_layers(frame, *mlp) for frame in merged])


def _narrowed(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(merge_neighbours(tokens, (SIDE, SIDE), 4, "column"), weight, bias)


def _clip_viewed(tokens: Tensor, weight: Tensor, bias: Tensor, *mlp: Tensor) -> Tensor:
    return two_layers(_narrowed(tokens, weight, bias), *mlp)


def _clip_fused(tokens: Tensor, weight: Tensor, bias: Tensor, *mlp: Tensor) -> Tensor:
    options = {"kernels": "triton", "order": "column"}
    merged = shuffle_project(tokens, weight, bias, grid=(SIDE, SIDE), ratio=4, gelu=False, **options)
    return shuffle_project(merged, *mlp, grid=(1, merged.shape[1]), ratio=1, **options)


def _inputs(regions: int, *layers: tuple[int, int]) -> Callable[..., tuple[Tensor, ...]]:
    def make(device: torch.device | str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        options = {"device": device, "dtype": dtype}
        tensors = [torch.randn(regions, SIDE * SIDE, WIDTH, **options)]
        for outputs, inputs in layers:
            tensors += [torch.randn(outputs, inputs, **options) * inputs**-0.5, torch.randn(outputs, **options)]
        return tuple(tensors)

    return make


def _first(rows: int, inputs: int, outputs: int, stored: bool = False) -> Launch:
    """The fused product: tokens, weight and bias read, the result written, and the pre-activation where stored."""
    moved = rows * inputs + outputs * inputs + outputs + rows * outputs * (2 if stored else 1)
    return Launch("forward_kernel", HALF * moved, 2 * rows * inputs * outputs)


def _product(name: str, rows: int, inputs: int, outputs: int) -> Launch:
    return Launch(name, HALF * (rows * inputs + inputs * outputs + rows * outputs), 2 * rows * inputs * outputs)


def _backward(rows: int, inputs: int, outputs: int) -> list[Launch]:
    """Of the whole projector with a second projection of outputs x outputs, the pre-activation stored."""
    wide, chosen = rows * outputs * HALF, TILES["weight"]["half"]
    parts, _ = parts_of_sum(rows, count_tiles(outputs, inputs, chosen), chosen.step)
    slope_parts, weight = -(-rows // SLOPE_PART) * outputs * 4, HALF * outputs * inputs
    weight_parts = weight if parts == 1 else parts * outputs * inputs * 4
    flops = 2 * rows * inputs * outputs
    found = [
        Launch("gelu", 2 * wide),
        _product("second weight", outputs, rows, outputs),
        Launch("second bias", wide),
        _product("through the second", rows, outputs, outputs),
        Launch("slope_kernel", 3 * wide + slope_parts),
        Launch("bias", slope_parts),
        Launch("tokens_kernel", wide + HALF * (outputs + rows) * inputs, flops),
        Launch("weight_kernel", wide + HALF * rows * inputs + weight_parts, flops),
    ]
    return found if parts == 1 else [*found, Launch("weight", weight_parts + weight)]
