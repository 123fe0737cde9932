"""A fixed convolutional network with its batch norms folded into its convolutions: half the time on a CPU.

In eval mode a batch norm is a scale and a shift for each channel, which the convolution ahead of it can do by itself.
"""

import copy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

# On a picture of noise the folded network gives the same but for rounding, relative to the largest value of a level.
_TOLERANCE = 1e-3


class FoldedNorms:
    """Runs ``network``, in eval mode and without gradients, as a folded copy of it.

    The copy is made at the first call and anew whenever a weight has changed, by loading, moving or casting; it is no
    part of the state. Where a copy would not give the same, or there is nothing to fold, the network itself runs.
    """

    def __init__(self, network: nn.Module):
        # In a tuple, so that a module that holds this does not count the network's parameters twice.
        self._network, self._folded, self._seen = (network,), network, ()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """(B, 3, S, S) -> the network's levels."""
        seen = _versions(self._network[0])
        if seen != self._seen:
            self._folded, self._seen = _folded(self._network[0], images), seen
        return self._folded(_laid_out(images) if self._folded is not self._network[0] else images)

    def __deepcopy__(self, memo) -> "FoldedNorms":
        return FoldedNorms(copy.deepcopy(self._network[0], memo))

    def __getstate__(self):
        return {"_network": self._network, "_folded": self._network[0], "_seen": ()}


def _versions(network: nn.Module) -> tuple:
    """Changes with any weight. Tensors made in inference mode have no version; they cannot be changed in place."""
    tensors = chain(network.parameters(), network.buffers())
    return tuple((t.data_ptr(), t.dtype, -1 if t.is_inference() else t._version) for t in tensors)


def _folded(network: nn.Module, images: Tensor) -> nn.Module:
    pairs = _pairs(network, images[:1])
    if not pairs:
        return network
    found = copy.deepcopy(network).requires_grad_(False)
    for conv_name, norm_name in pairs:
        conv, norm = found.get_submodule(conv_name), found.get_submodule(norm_name)
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.weight, conv.bias = weight, bias
        parent, _, own = norm_name.rpartition(".")
        setattr(found.get_submodule(parent), own, _behind(norm))
    if images.device.type == "cpu":
        found = found.to(memory_format=torch.channels_last)
    noise = torch.randn(1, *images.shape[1:], generator=torch.Generator().manual_seed(0)).to(images)
    return found if _same(network(noise), found(_laid_out(noise))) else network


def _pairs(network: nn.Module, image: Tensor) -> list[tuple[str, str]]:
    """Names of the convolutions and of the batch norm that reads what each gives, seen while the network runs once."""
    made: dict[int, tuple[str, Tensor]] = {}
    pairs, handles = [], []

    def after_conv(name: str):
        return lambda _module, _inputs, output: made.update({id(output): (name, output)})

    def before_norm(name: str):
        def look(_module, inputs):
            if id(inputs[0]) in made:
                pairs.append((made[id(inputs[0])][0], name))

        return look

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after_conv(name)))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats and module.affine:
            handles.append(module.register_forward_pre_hook(before_norm(name)))
    try:
        network(image)
    finally:
        for handle in handles:
            handle.remove()
    # A module that is used twice stands for two places.
    once = [len([pair for pair in pairs if name in pair]) == 1 for own in pairs for name in own]
    return pairs if all(once) else []


def _behind(norm: nn.BatchNorm2d) -> nn.Module:
    """What timm's batch norms do besides: an activation."""
    return getattr(norm, "act", nn.Identity())


def _laid_out(images: Tensor) -> Tensor:
    """On a CPU convolutions are faster where a pixel's channels lie side by side."""
    return images.contiguous(memory_format=torch.channels_last) if images.device.type == "cpu" else images


def _same(expected: list[Tensor], found: list[Tensor]) -> bool:
    levels = zip(expected, found, strict=True)
    return all(bool((a - b).abs().max() <= _TOLERANCE * a.abs().max()) for a, b in levels)
