"""parallel_heads without Triton: equal to sam2's modules, the registered operator, compilation, launches, errors."""

import pytest
import torch
from sam2.modeling.sam2_utils import MLP
from torch import nn

from pam_kit.kernels import parallel_heads
from pam_kit.kernels.counting import launches
from pam_kit.kernels.parallel_heads import (
    PackedHeads,
    beside,
    cases,
    heads_and_semantic,
    heads_bmm,
    misfit,
    pack_heads,
    semantic_mlp,
)
from pam_kit.kernels.parallel_heads.table import ROWS, Sizes, obstacle, programs

WIDTH = 24
Op = torch.ops.pam_kit.parallel_heads


def make(iou_width: int = WIDTH, width: int = WIDTH, dtype=torch.float32) -> nn.ModuleList:
    """Object score, IoU and four hyper-networks, as in SAM 2's decoder."""
    torch.manual_seed(0)
    hyper = [MLP(width, width, width // 8, 3) for _ in range(4)]
    return nn.ModuleList([MLP(width, width, 1, 3), MLP(width, iou_width, 4, 3, sigmoid_output=True), *hyper]).to(dtype)


def by_modules(heads: nn.ModuleList, tokens: torch.Tensor) -> list[torch.Tensor]:
    return [head(tokens[:, i]) for i, head in enumerate(heads)]


def leaves(heads: nn.ModuleList, regions: int = 3) -> list[torch.Tensor]:
    packed = [tensor.detach().requires_grad_() for tensor in pack_heads(heads).tensors]
    return [torch.randn(regions, 9, WIDTH, requires_grad=True), *packed]


@pytest.mark.parametrize(
    ("width", "iou_width", "regions"), [(24, 24, 3), (256, 256, 2), (32, 48, 5), (32, 16, 1), (24, 24, 0)]
)
def test_packed_heads_are_the_modules(width, iou_width, regions):
    heads, tokens = make(iou_width, width), torch.randn(regions, 8, width)
    found, expected = parallel_heads(tokens, pack_heads(heads)), by_modules(heads, tokens)
    assert found.shape == (regions, 6, max(4, width // 8))
    for i, wanted in enumerate(expected):
        torch.testing.assert_close(found[:, i, : wanted.shape[1]], wanted, atol=1e-6, rtol=1e-6)


def test_gradients_reach_the_modules_parameters():
    heads, tokens = make(16, dtype=torch.float64), torch.randn(3, 8, WIDTH, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*heads.named_parameters(), strict=True)
    weights = [torch.randn_like(out) for out in by_modules(heads, tokens)]
    found = heads_bmm(tokens, pack_heads(heads))
    losses = [
        sum((out * weight).sum() for out, weight in zip(outputs, weights, strict=True))
        for outputs in (by_modules(heads, tokens), [found[:, i, : w.shape[1]] for i, w in enumerate(weights)])
    ]
    wanted, packed = (torch.autograd.grad(loss, (tokens, *parameters)) for loss in losses)
    for name, one, other in zip(("tokens", *names), wanted, packed, strict=True):
        torch.testing.assert_close(other, one, msg=name)
    assert {name.removeprefix("1.") for name in names if name.startswith("1.")} == set(MLP(2, 2, 2, 3).state_dict())


def test_the_operators_derivatives_are_those_of_autograd():
    for squashed in ((), (1,), (0, 3)):
        given = leaves(make(16))
        doubles = [tensor.detach().double().requires_grad_() for tensor in given]
        out, wanted = Op(*given, list(squashed)), heads_bmm(doubles[0], PackedHeads(*doubles[1:], squashed=squashed))
        torch.testing.assert_close(out.double(), wanted, atol=1e-5, rtol=1e-5)
        upstream = torch.randn_like(out)
        found = torch.autograd.grad(out, given, upstream)
        for one, other in zip(found, torch.autograd.grad(wanted, doubles, upstream.double()), strict=True):
            torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("strided", [False, True])
def test_the_registration_holds(strided):
    """Schema, autograd, fake implementation and compilation with changing shapes, as torch checks them."""
    given = leaves(make())
    if strided:
        given[0] = given[0].detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    torch.library.opcheck(Op, (*given, [1]))
    plain = [tensor.detach() for tensor in given]
    torch.library.opcheck(torch.ops.pam_kit.parallel_heads_backward, (torch.randn(3, 6, 4), *plain, [1]))
    semantic = [torch.randn(shape) for shape in ((3, 5, WIDTH), (10, WIDTH), (10,), (7, 10), (7,))]
    torch.library.opcheck(torch.ops.pam_kit.heads_and_semantic, (*plain, [1], *semantic))


def test_it_compiles_into_one_graph():
    heads = make()

    def public(tokens):
        return parallel_heads(tokens, pack_heads(heads)) * 2

    def operator(tokens):
        packed = pack_heads(heads)
        return Op(tokens, *packed.tensors, list(packed.squashed)) * 2

    for function in (public, operator):
        torch._dynamo.reset()
        tokens = torch.randn(3, 8, WIDTH, requires_grad=True)
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
        plain, fast = function(tokens), compiled(tokens)
        torch.testing.assert_close(fast, plain)
        by = [torch.autograd.grad(out.square().sum(), (tokens, *heads.parameters())) for out in (plain, fast)]
        torch.testing.assert_close(*by)


def test_heads_and_semantic_tokens_are_those_of_the_parts():
    heads, tokens = make(), torch.randn(2, 7, WIDTH)
    first, second = nn.Linear(WIDTH, 10), nn.Linear(10, 10)
    semantic = (torch.randn(2, 4, WIDTH), first.weight, first.bias, second.weight, second.bias)
    out, projected = heads_and_semantic(tokens, pack_heads(heads), semantic)
    assert torch.equal(out, parallel_heads(tokens, pack_heads(heads)))
    torch.testing.assert_close(projected, second(nn.functional.gelu(first(semantic[0]))))
    torch.testing.assert_close(semantic_mlp(*semantic), projected)
    assert beside(lambda: out, lambda: projected, tokens.device) == (out, projected)


def test_launches():
    """Six in torch, three products, two ReLU, a sigmoid, where SAM 2's modules take 32 and a copy; one when fused."""
    for case in cases():
        inputs = case.inputs("meta", torch.bfloat16)
        eager, view = (launches(case.providers[name], *inputs) for name in ("eager", "view"))
        assert len(eager) >= 32 and len(view) == 6 and len(case.forward) == 1
        # The narrow heads are filled up: a little more is computed.
        assert sum(launch.flops for launch in view) == case.forward[0].flops


def test_the_published_order_is_that_of_the_modules():
    case = cases()[0]
    tokens, *weights = case.inputs("cpu", torch.float32)
    eager, view = case.providers["eager"](tokens, *weights), case.providers["view"](tokens, *weights)
    torch.testing.assert_close(eager[:, :128], view[:, 2:].flatten(1))
    torch.testing.assert_close(eager[:, 128:], torch.cat([view[:, 0, :1], view[:, 1, :4]], 1))


def test_sizes_of_a_launch():
    assert programs(Sizes(6, 256, 256, 32), ROWS + 1, 0) == 12
    assert programs(Sizes(6, 256, 256, 32, 1536, 1536), 1, 16) == 6 + 24
    assert not obstacle(Sizes(6, 512, 512, 64)) and "at most 512 wide" in obstacle(Sizes(6, 640, 640, 80))


def test_errors_name_the_culprit():
    heads = make()
    with pytest.raises(ValueError, match=r"tokens are of shape \(2, 5, 24\); 6 heads of width 24 read \(R, T, 24\)"):
        parallel_heads(torch.randn(2, 5, WIDTH), pack_heads(heads))
    with pytest.raises(ValueError, match="choose one of auto, triton, torch"):
        parallel_heads(torch.randn(2, 6, WIDTH), pack_heads(heads), kernels="cuda")
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"):
        parallel_heads(torch.randn(2, 6, WIDTH), pack_heads(heads), kernels="triton")
    with pytest.raises(ValueError, match="head 1 is no MLP of 3 layers"):
        pack_heads([heads[0], nn.Linear(WIDTH, 1)])
    assert "different widths" in misfit([heads[0], MLP(8, 8, 1, 3)])
    assert "no MLP of 3 layers" in misfit([MLP(8, 8, 1, 2)]) and "ReLU" in misfit([MLP(8, 8, 1, 3, nn.GELU)])
