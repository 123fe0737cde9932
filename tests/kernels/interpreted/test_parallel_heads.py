"""parallel_heads' kernel against the modules in float64: odd widths, types, strides, semantic tokens, poison."""

import pytest
import torch
from sam2.modeling.sam2_utils import MLP
from torch import nn

from pam_kit.kernels import parallel_heads
from pam_kit.kernels.dispatch import say_once
from pam_kit.kernels.parallel_heads import PackedHeads, heads_and_semantic, heads_bmm, pack_heads, semantic_mlp
from pam_kit.kernels.parallel_heads.launch import launch_heads

# Root mean square of the error, relative to that of the value. Under the interpreter bfloat16 is cut off, not rounded.
BARS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}
# Regions, width C, width of the IoU head, object score, type.
CASES = {
    "one region": (1, 32, 32, True, torch.float32),
    "two blocks of regions": (17, 32, 16, False, torch.float32),
    "odd width": (3, 72, 40, True, torch.float32),
    "as SAM 2": (2, 256, 256, True, torch.float16),
    "half": (5, 48, 24, True, torch.float16),
    "bfloat16": (2, 96, 48, True, torch.bfloat16),
}


def make(regions, width, hidden, scored, dtype=torch.float32):
    torch.manual_seed(0)
    heads = [MLP(width, hidden, 4, 3, sigmoid_output=True), *(MLP(width, width, width // 8, 3) for _ in range(4))]
    heads = nn.ModuleList([MLP(width, width, 1, 3), *heads] if scored else heads).to(dtype)
    return heads, torch.randn(regions, 9, width).to(dtype)


def semantic_tokens(regions, width, dtype=torch.float32):
    """5 tokens of each region, and a map to 72 inner and 100 output channels."""
    shapes = ((regions, 5, width), (72, width), (72,), (100, 72), (100,))
    return [(torch.randn(shape) * (1 if i == 0 else shape[-1] ** -0.5)).to(dtype) for i, shape in enumerate(shapes)]


def error(value: torch.Tensor, expected: torch.Tensor) -> float:
    return ((value.double() - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()).item()


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_heads_and_semantic_tokens_agree_with_the_modules_in_float64(name, poisoned):
    regions, width, hidden, scored, dtype = CASES[name]
    heads, tokens = make(regions, width, hidden, scored, dtype)
    semantic = semantic_tokens(regions, width, dtype)
    packed = pack_heads(heads)
    packed = PackedHeads(*map(poisoned, packed.tensors), squashed=packed.squashed)
    given = [poisoned(tokens), *map(poisoned, semantic)]
    out = parallel_heads(given[0], packed, kernels="triton")
    again, projected = heads_and_semantic(given[0], packed, tuple(given[1:]), kernels="triton")
    assert torch.equal(out, again) and out.dtype == projected.dtype == dtype
    for i, head in enumerate(heads.double()):
        expected = head(tokens[:, i].double())
        assert error(out[:, i, : expected.shape[1]], expected) < BARS[dtype], i
    assert error(projected, semantic_mlp(*(part.double() for part in semantic))) < BARS[dtype]
    assert torch.equal(given[0], tokens) and all(map(torch.equal, given[1:], semantic)), "an input was written to"


@torch.no_grad()
def test_nothing_is_written_beside_a_tensor_and_nothing_is_left_out(guarded):
    heads, tokens = make(17, 40, 24, True)
    packed = pack_heads(heads)
    with guarded():
        out, projected = launch_heads(tokens, list(packed.tensors), [1], semantic_tokens(17, 40))
    assert not out.isnan().any() and not projected.isnan().any()
    torch.testing.assert_close(out, heads_bmm(tokens, packed))


@torch.no_grad()
def test_strides_and_repetition_change_no_bit():
    heads, tokens = make(3, 32, 32, True)
    packed = pack_heads(heads)
    out = parallel_heads(tokens, packed, kernels="triton")
    apart = torch.stack([tokens, torch.zeros_like(tokens)], -1)[..., 0]
    turned = tokens.transpose(0, 1).contiguous().transpose(0, 1)
    for given in (tokens, apart, turned, torch.cat([tokens, tokens], -1)[..., :32]):
        assert torch.equal(parallel_heads(given, packed, kernels="triton"), out)


@torch.no_grad()
def test_no_region():
    heads, tokens = make(0, 32, 32, True)
    out, projected = heads_and_semantic(tokens, pack_heads(heads), tuple(semantic_tokens(0, 32)), kernels="triton")
    assert out.shape == (0, 6, 4) and projected.shape == (0, 5, 100)


@torch.no_grad()
def test_offsets_beyond_32_bits():
    """The third region lies 2^31 elements behind the first, in memory of which almost nothing is ever touched."""
    heads, near = make(3, 32, 32, True, torch.float16)
    tokens = torch.empty(2**31 + 1024, dtype=torch.float16).as_strided((3, 9, 32), (2**30, 32, 1))
    tokens.copy_(near)
    packed = pack_heads(heads)
    assert torch.equal(parallel_heads(tokens, packed, kernels="triton"), parallel_heads(near, packed, kernels="triton"))


def test_derivatives_reach_the_modules():
    heads, tokens = make(3, 32, 16, True)
    upstream, found = torch.randn(3, 6, 4), []
    for kernels in ("torch", "triton"):
        leaf = tokens.clone().requires_grad_()
        parallel_heads(leaf, pack_heads(heads), kernels=kernels).backward(upstream)
        found.append([leaf.grad, *(parameter.grad.clone() for parameter in heads.parameters())])
        heads.zero_grad()
    for plain, fused in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain)


@torch.no_grad()
def test_under_autocast_the_types_are_those_of_the_products():
    heads, tokens = make(2, 32, 32, True)
    with torch.autocast("cpu", torch.bfloat16):
        plain, fused = (parallel_heads(tokens, pack_heads(heads), kernels=kernels) for kernels in ("torch", "triton"))
    assert plain.dtype == fused.dtype == torch.bfloat16
    torch.testing.assert_close(fused, plain, atol=2e-2, rtol=2e-2)


def test_with_gradients_heads_and_semantic_tokens_run_apart(caplog):
    heads, tokens = make(2, 32, 32, True)
    semantic = semantic_tokens(2, 32)
    semantic[1].requires_grad_()
    say_once.cache_clear()
    out, projected = heads_and_semantic(tokens, pack_heads(heads), tuple(semantic), kernels="triton")
    (out.sum() + projected.sum()).backward()
    assert semantic[1].grad is not None and next(heads.parameters()).grad is not None
    assert [record for record in caplog.records if "run apart" in record.message]
