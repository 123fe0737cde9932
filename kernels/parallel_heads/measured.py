"""What is measured of ``parallel_heads``: SAM 2's six heads for one region and for many."""

from collections.abc import Callable
from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from pam_kit.kernels.cases import Case
from pam_kit.kernels.counting import Launch
from pam_kit.kernels.parallel_heads.op import parallel_heads
from pam_kit.kernels.parallel_heads.packing import PackedHeads
from pam_kit.kernels.parallel_heads.reference import heads_bmm

WIDTH, OUTPUTS, HALF = 256, 32, 2
# Outputs of the object score, the IoU head and the four hyper-networks; tokens with a box's three behind them.
HEADS, TOKENS, SQUASHED = (1, 4, OUTPUTS, OUTPUTS, OUTPUTS, OUTPUTS), 9, (1,)
SHAPES = tuple(
    (len(HEADS), *shape) for shape in ((WIDTH, WIDTH), (WIDTH,), (WIDTH, WIDTH), (WIDTH,), (OUTPUTS, WIDTH), (OUTPUTS,))
)

NOTE = """The heads are a matter of launches, not of bytes or operations: the weights, 1.6 MiB, have to be read once,
and a CUDA graph takes most of what 33 launches cost the CPU without a kernel. torch's packed products launch six
kernels, or nine where the biases are copied ahead of the products. What is left to the fused one is the latency of
three products in a row. Semantic tokens may share its launch where they do not depend on the selected mask; for many
regions they should not, since each block of 64 outputs computes the hidden layer anew. In training nothing is won
over the packed products, which compute the derivatives."""


def cases() -> list[Case]:
    return [_case(regions) for regions in (1, 16, 64)]


def published(tokens: Tensor, *weights: Tensor) -> Tensor:
    """Head after head and layer after layer, as SAM 2's decoder runs them."""
    w1, b1, w2, b2, w3, b3 = weights
    outputs = []
    for i, width in enumerate(HEADS):
        hidden = F.relu(F.linear(F.relu(F.linear(tokens[:, i], w1[i], b1[i])), w2[i], b2[i]))
        out = F.linear(hidden, w3[i, :width], b3[i, :width])
        outputs.append(out.sigmoid() if i in SQUASHED else out)
    return torch.cat([torch.stack(outputs[2:], 1).flatten(1), outputs[0], outputs[1]], 1)


def _case(regions: int) -> Case:
    moved = regions * len(HEADS) * (WIDTH + OUTPUTS) + sum(map(prod, SHAPES))
    flops = 2 * regions * len(HEADS) * WIDTH * (2 * WIDTH + OUTPUTS)
    return Case(
        operator="parallel_heads",
        name=f"six heads, {regions} region{'s' if regions > 1 else ''}",
        inputs=_inputs(regions),
        providers={
            "eager": published,
            "view": _packed(heads_bmm),
            "triton": _packed(partial(parallel_heads, kernels="triton")),
        },
        forward=[Launch("heads_kernel", HALF * moved, flops)],
        regions=regions,
        note=NOTE,
    )


def _packed(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(tokens: Tensor, *weights: Tensor) -> Tensor:
        return run(tokens, PackedHeads(*weights, squashed=SQUASHED))

    return call


def _inputs(regions: int) -> Callable[..., tuple[Tensor, ...]]:
    def make(device: torch.device | str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        options = {"device": device, "dtype": dtype}
        weights = [torch.randn(shape, **options) * WIDTH**-0.5 for shape in SHAPES]
        return torch.randn(regions, TOKENS, WIDTH, **options), *weights

    return make
