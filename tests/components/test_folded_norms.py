"""Batch norms folded into convolutions: the same levels, faster, and never those of weights that have changed."""

import copy

import pytest
import timm
import torch
from torch import nn

from pam_kit.components.backbones.folded_norms import FoldedNorms


@pytest.fixture(params=["test_efficientnet", "test_byobnet", "test_resnet"])
def network(request):
    torch.manual_seed(0)
    made = timm.create_model(request.param, features_only=True).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.normal_()
            module.running_var.uniform_(0.5, 2)
    return made


def norms(network) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_the_levels_stay_and_the_norms_go(network):
    fast, images = FoldedNorms(network), torch.randn(2, 3, 64, 64)
    for level, expected in zip(fast(images), network(images), strict=True):
        assert not level.requires_grad
        torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))
    assert norms(network) > 0 and norms(fast._folded) == 0


def test_changed_weights_are_noticed(network):
    fast, images = FoldedNorms(network), torch.randn(1, 3, 64, 64)
    before = fast(images)[-1]
    with torch.no_grad():
        next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).running_mean.add_(1)
    assert not torch.allclose(fast(images)[-1], before)
    torch.testing.assert_close(fast(images)[-1], network(images)[-1], rtol=1e-3, atol=1e-3)
    other = copy.deepcopy(fast)
    assert other._network[0] is not network
    torch.testing.assert_close(other(images)[-1], fast(images)[-1])


class Twice(nn.Module):
    """One convolution that stands ahead of two norms: nothing can be folded into it."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, images):
        found = self.conv(images)
        return [self.one(found), self.two(2 * self.conv(images))]


class Beside(nn.Module):
    """What the convolution gives is also used without the norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images):
        found = self.conv(images)
        return [self.norm(found) + found]


@pytest.mark.parametrize("kind", [Twice, Beside])
def test_what_cannot_be_folded_runs_as_it_is(kind):
    network = kind().eval()
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    images = torch.randn(1, 3, 8, 8)
    fast = FoldedNorms(network)
    assert all(torch.equal(a, b) for a, b in zip(fast(images), network(images), strict=True))
    assert fast._folded is network
