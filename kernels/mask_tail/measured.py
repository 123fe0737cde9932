"""What is measured of ``mask_tail``: SAM 2's upscaling of a picture of 1024 pixels, for one region and for many."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pam_kit.kernels.cases import Case
from pam_kit.kernels.counting import Launch
from pam_kit.kernels.mask_tail.op import mask_tail
from pam_kit.kernels.mask_tail.packing import PackedUpscaling, convolution_weight
from pam_kit.kernels.mask_tail.reference import DELTA, mask_tail_reference, rounded_delta

SIDE, WIDTH, MASKS, HALF = 64, 256, 4, 2
FIRST, SECOND = WIDTH // 4, WIDTH // 8
SHAPES = ((WIDTH, 4, FIRST), (FIRST,), (FIRST,), (FIRST,), (FIRST, 4, SECOND), (SECOND,))

NOTE = """Here are the bytes: the embedding of the masks' size, 4 MiB a region in each of its forms, is never in memory,
and skip features are read for a picture, not for each of its regions. What remains are the tokens, the embedding of
half the size, written and read once, and the logits. The operations stay, 0.8 GFLOP a region, and beside them an erf
for each of 3.1 million numbers, which the bound leaves out: with a tenth of the bytes it is these that a card may wait
for. Skip features that do not lie channels-last cost a copy a call, 6 MiB. One kernel could save the embedding of half
the size too, at the price of four accumulators; that was not tried. Training runs torch's operations."""


def cases() -> list[Case]:
    """Regions of one picture."""
    return [_case(regions) for regions in (1, 16, 64)]


def published(tokens: Tensor, hyper: Tensor, finer: Tensor, fine: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """As SAM 2's decoder writes it, its norm in single steps, and the areas of its stability score."""
    w1, b1, norm_weight, norm_bias, w2, b2 = weights
    source = tokens.transpose(1, 2).unflatten(2, (SIDE, SIDE))
    out = F.conv_transpose2d(source, convolution_weight(w1), b1, stride=2) + fine
    mean = out.mean(1, keepdim=True)
    variance = (out - mean).pow(2).mean(1, keepdim=True)
    out = norm_weight[:, None, None] * ((out - mean) / torch.sqrt(variance + 1e-6)) + norm_bias[:, None, None]
    out = F.gelu(F.conv_transpose2d(F.gelu(out), convolution_weight(w2), b2, stride=2) + finer)
    logits = (hyper @ out.flatten(2)).unflatten(2, out.shape[-2:])
    delta = rounded_delta(logits.dtype, DELTA)
    return logits, torch.stack([(logits > bound).sum((2, 3)) for bound in (-delta, 0.0, delta)], -1)


def _case(regions: int) -> Case:
    return Case(
        operator="mask_tail",
        name=f"{WIDTH}x{SIDE}x{SIDE}, {regions} region{'s' if regions > 1 else ''} of a picture",
        inputs=_inputs(regions),
        providers={
            "eager": published,
            "view": _packed(mask_tail_reference),
            "triton": _packed(partial(mask_tail, kernels="triton")),
        },
        forward=_launches(regions),
        regions=regions,
        note=NOTE,
    )


def _launches(regions: int) -> list[Launch]:
    """The skip features, one picture's, are read once; with channels last in memory they need no copy."""
    pixels, blocks = SIDE**2, 2 * SIDE * 2
    embedding, logits = regions * 4 * pixels * FIRST, regions * MASKS * 16 * pixels
    first = regions * pixels * WIDTH + embedding + 4 * pixels * FIRST + 4 * WIDTH * FIRST + 3 * FIRST
    last = embedding + logits + 16 * pixels * SECOND + 4 * FIRST * SECOND + regions * MASKS * SECOND
    counts = regions * blocks * MASKS * 3 * 4
    made = 2 * regions * (4 * pixels * FIRST * WIDTH + 16 * pixels * SECOND * (FIRST + MASKS))
    stage1 = 2 * regions * 4 * pixels * FIRST * WIDTH
    return [
        Launch("upscale_stage1", HALF * first, stage1),
        Launch("upscale_mask_tail", HALF * last + counts, made - stage1),
        Launch("sum", counts),
    ]


def _packed(run: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    def call(tokens: Tensor, hyper: Tensor, finer: Tensor, fine: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        index = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        return run(tokens, (SIDE, SIDE), hyper, PackedUpscaling(*weights), (finer, fine), index)

    return call


def _inputs(regions: int) -> Callable[..., tuple[Tensor, ...]]:
    def make(device: torch.device | str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        options = {"device": device, "dtype": dtype}
        tokens, hyper = torch.randn(regions, SIDE**2, WIDTH, **options), torch.randn(regions, MASKS, SECOND, **options)
        finer, fine = (
            torch.randn(1, channels, side, side, **options).to(memory_format=torch.channels_last)
            for channels, side in ((SECOND, 4 * SIDE), (FIRST, 2 * SIDE))
        )
        weights = [torch.randn(shape, **options) * shape[0] ** -0.5 for shape in SHAPES]
        return tokens, hyper, finer, fine, *weights

    return make
