"""Small MLPs of one shape put into one tensor for each layer, so that they can run side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_LAYERS = 3


class PackedHeads(NamedTuple):
    """H heads of three linear layers with ReLU between them, C -> D -> D -> O. Narrower heads are filled up with zeros.

    Args:
        first_weight: (H, D, C).
        first_bias: (H, D).
        second_weight: (H, D, D).
        second_bias: (H, D).
        last_weight: (H, O, D).
        last_bias: (H, O).
        squashed: the heads whose outputs go through a sigmoid.
    """

    first_weight: Tensor
    first_bias: Tensor
    second_weight: Tensor
    second_bias: Tensor
    last_weight: Tensor
    last_bias: Tensor
    squashed: tuple[int, ...] = ()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(self[:6])


def pack_heads(heads: Sequence[nn.Module]) -> PackedHeads:
    """The parameters of sam2's ``MLP`` modules, stacked; gradients flow back to the modules.

    The modules stay the owners, so a state dict has their names. Under zeros a narrower head computes what it does
    alone: a hidden unit without weights is zero behind ReLU, and an output without weights is not read.

    Raises:
        ValueError: the heads cannot run side by side, see ``misfit``.
    """
    problem = misfit(heads)
    if problem:
        raise ValueError(f"these heads cannot be packed: {problem}")
    hidden = max(head.layers[0].out_features for head in heads)
    outputs = max(head.layers[2].out_features for head in heads)
    layers = []
    for index, (rows, columns) in enumerate(((hidden, None), (hidden, hidden), (outputs, hidden))):
        linear = [head.layers[index] for head in heads]
        layers.append(torch.stack([_filled(layer.weight, rows, columns) for layer in linear]))
        layers.append(torch.stack([_filled(layer.bias[None], 1, rows)[0] for layer in linear]))
    w1, b1, w2, b2, w3, b3 = layers
    return PackedHeads(w1, b1, w2, b2, w3, b3, tuple(i for i, head in enumerate(heads) if head.sigmoid_output))


def misfit(heads: Sequence[nn.Module]) -> str:
    """Why these modules cannot be packed; empty where they can."""
    for index, head in enumerate(heads):
        if getattr(head, "num_layers", None) != NUM_LAYERS or not isinstance(getattr(head, "act", None), nn.ReLU):
            return f"head {index} is no MLP of {NUM_LAYERS} layers with ReLU between them"
    widths = {head.layers[0].in_features for head in heads}
    return "" if len(widths) == 1 else f"they read tokens of different widths, {sorted(widths)}"


def _filled(weight: Tensor, rows: int, columns: int | None) -> Tensor:
    """(o, i) -> (rows, columns), zeros below and to the right; without ``columns`` the width stays."""
    below, right = rows - weight.shape[0], (columns or weight.shape[1]) - weight.shape[1]
    return F.pad(weight, (0, right, 0, below)) if below or right else weight
