"""Packed heads in plain torch: one batched product a layer instead of one product a head and layer."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pam_kit.kernels.parallel_heads.packing import PackedHeads


def heads_bmm(tokens: Tensor, heads: PackedHeads) -> Tensor:
    """Head i applied to token i of each region.

    Args:
        tokens: (R, T, C) with T >= H; what stands behind the first H tokens is not read.
        heads: H heads.

    Returns:
        (R, H, O); of a head with fewer outputs the rest is zero, or 0.5 behind a sigmoid.
    """
    w1, b1, w2, b2, w3, b3 = heads.tensors
    hidden = tokens[:, : len(w1)].transpose(0, 1)  # (H, R, C)
    hidden = F.relu(torch.baddbmm(b1[:, None], hidden, w1.transpose(1, 2)))
    hidden = F.relu(torch.baddbmm(b2[:, None], hidden, w2.transpose(1, 2)))
    return _squash(torch.baddbmm(b3[:, None], hidden, w3.transpose(1, 2)), heads.squashed).transpose(0, 1)


def heads_backward(grad: Tensor, tokens: Tensor, heads: PackedHeads) -> tuple[Tensor, ...]:
    """Gradients of ``tokens`` and of the six tensors of ``heads``, computed anew from the inputs.

    Args:
        grad: (R, H, O), of the outputs.
    """
    w1, b1, w2, b2, w3, b3 = heads.tensors
    read = tokens[:, : len(w1)].transpose(0, 1)
    first = F.relu(torch.baddbmm(b1[:, None], read, w1.transpose(1, 2)))
    second = F.relu(torch.baddbmm(b2[:, None], first, w2.transpose(1, 2)))
    d3 = grad.transpose(0, 1)
    if heads.squashed:
        out = _squash(torch.baddbmm(b3[:, None], second, w3.transpose(1, 2)), heads.squashed)
        slope = torch.stack([o * (1 - o) if i in heads.squashed else torch.ones_like(o) for i, o in enumerate(out)])
        d3 = d3 * slope
    d2 = torch.bmm(d3, w3) * (second > 0)
    d1 = torch.bmm(d2, w2) * (first > 0)
    of_tokens = F.pad(torch.bmm(d1, w1).transpose(0, 1), (0, 0, 0, tokens.shape[1] - len(w1)))
    of_weights = [torch.bmm(d.transpose(1, 2), x) for d, x in ((d1, read), (d2, first), (d3, second))]
    of_biases = [d.sum(1) for d in (d1, d2, d3)]
    return of_tokens, *(g for pair in zip(of_weights, of_biases, strict=True) for g in pair)


def semantic_mlp(tokens: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """(R, N, C) -> (R, N, D): linear, GELU, linear; the projector's map of semantic tokens."""
    return F.linear(F.gelu(F.linear(tokens, w1, b1)), w2, b2)


def _squash(outputs: Tensor, squashed: tuple[int, ...]) -> Tensor:
    """(H, R, O) with a sigmoid over the heads that have one. In place outside the graph: a launch for each of them."""
    if not squashed:
        return outputs
    if torch.is_grad_enabled() and outputs.requires_grad:
        return torch.stack([o.sigmoid() if i in squashed else o for i, o in enumerate(outputs)])
    for index in squashed:
        outputs[index].sigmoid_()
    return outputs
