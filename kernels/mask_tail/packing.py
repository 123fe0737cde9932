"""The weights of a mask decoder's upscaling, in the order in which the kernels read them."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class PackedUpscaling(NamedTuple):
    """Two transposed convolutions of kernel and stride 2; norm and GELU behind the first, GELU behind the second.

    Args:
        first_weight: (C, 4, C1); the axis of 4 is the pixel of each 2x2 square, row by row.
        first_bias: (C1,).
        norm_weight: (C1,), of the norm over the channels of each pixel.
        norm_bias: (C1,).
        second_weight: (C1, 4, C2).
        second_bias: (C2,).
        eps: of the norm.
    """

    first_weight: Tensor
    first_bias: Tensor
    norm_weight: Tensor
    norm_bias: Tensor
    second_weight: Tensor
    second_bias: Tensor
    eps: float = 1e-6

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(self[:6])


def pack_upscaling(upscaling: nn.Sequential) -> PackedUpscaling:
    """The parameters of sam2's ``MaskDecoder.output_upscaling``; gradients flow back to the module.

    Raises:
        ValueError: see ``misfit``.
    """
    problem = misfit(upscaling)
    if problem:
        raise ValueError(f"this upscaling cannot be packed: {problem}")
    first, norm, _, second, _ = upscaling
    weights = [layer.weight.flatten(2).transpose(1, 2).contiguous() for layer in (first, second)]
    return PackedUpscaling(weights[0], first.bias, norm.weight, norm.bias, weights[1], second.bias, norm.eps)


def misfit(upscaling: nn.Module) -> str:
    """Why this module cannot be packed; empty where it can."""
    layers = list(upscaling.children())
    if [type(layer).__name__ for layer in layers] != [
        "ConvTranspose2d",
        "LayerNorm2d",
        "GELU",
        "ConvTranspose2d",
        "GELU",
    ]:
        return "its layers are not transposed convolution, LayerNorm2d, GELU, transposed convolution, GELU"
    if any(layer.kernel_size != (2, 2) or layer.stride != (2, 2) or layer.bias is None for layer in layers[::3]):
        return "a transposed convolution is not of kernel and stride 2 with a bias"
    if any(layer.approximate != "none" for layer in layers[2::2]):
        return "a GELU is an approximation"
    return ""


def convolution_weight(packed: Tensor) -> Tensor:
    """(C, 4, C1) -> (C, C1, 2, 2), as torch's transposed convolutions take it."""
    return torch.unflatten(packed.transpose(1, 2), 2, (2, 2))
