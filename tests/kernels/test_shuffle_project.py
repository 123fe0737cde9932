"""shuffle_project without Triton: the registered operator, its formulas, compilation, the released order, errors."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from pam_kit.components.projectors.pixel_shuffle_mlp import PixelShuffleMlp
from pam_kit.contracts import PerceivedTokens
from pam_kit.kernels import shuffle_project
from pam_kit.kernels.counting import kept_bytes, launches
from pam_kit.kernels.shuffle_project import cases, merge_neighbours
from pam_kit.kernels.shuffle_project.measured import published
from pam_kit.kernels.shuffle_project.reference import Shuffle, part_neighbours, project

GRID, C, N, D = (4, 8), 6, 10, 7
Op = torch.ops.pam_kit.shuffle_project


def tensors(regions: int = 2, ratio: int = 2, second: bool = True, dtype=torch.float64):
    torch.manual_seed(0)
    shapes = [(regions, GRID[0] * GRID[1], C), (N, ratio**2 * C), (N,), *([(D, N), (D,)] if second else [])]
    made = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    return [*made, *[None] * (5 - len(made))]


def kept_tokens(regions: int = 2, ratio: int = 2) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.stack([torch.randperm(GRID[0] * GRID[1] // ratio**2)[:3] for _ in range(regions)])


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize(
    ("ratio", "order", "second", "kept"),
    [(2, "row", True, True), (2, "column", True, False), (4, "column", False, True), (1, "row", True, False)],
)
def test_the_operators_derivatives_are_those_of_autograd(ratio, order, second, kept, store):
    given, kept = tensors(ratio=ratio, second=second), kept_tokens(ratio=ratio)[:, :2] if kept else None
    single = [None if tensor is None else tensor.detach().float().requires_grad_() for tensor in given]
    expected = project(*given, kept, Shuffle(GRID, ratio, order, True))
    out, stored = Op(*single, kept, GRID, ratio, order == "column", True, store)
    assert stored.numel() == (out.shape[0] * out.shape[1] * N if store else 0) and not stored.requires_grad
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    expected.backward(upstream.double())
    for tensor, wanted in zip(single, given, strict=True):
        assert tensor is None or torch.allclose(tensor.grad.double(), wanted.grad, atol=1e-4, rtol=1e-4)


def test_parting_undoes_merging():
    tokens = torch.randn(2, 32, 3)
    for ratio in (1, 2, 4):
        for order in ("row", "column"):
            assert torch.equal(
                part_neighbours(merge_neighbours(tokens, GRID, ratio, order), GRID, ratio, order), tokens
            )


@pytest.mark.parametrize(("second", "kept", "strided"), [(True, False, False), (False, True, True)])
def test_the_registration_holds(second, kept, strided):
    """Schema, autograd, fake implementation and compilation with changing shapes, as torch checks them."""
    given = tensors(second=second, dtype=torch.float32)
    if strided:
        given[0] = torch.cat([given[0].detach()] * 2, -1)[..., :C].requires_grad_()
    index = kept_tokens() if kept else None
    torch.library.opcheck(Op, (*given, index, GRID, 2, True, True, True))
    out, stored = Op(*given, index, GRID, 2, True, True, True)
    plain = [None if tensor is None else tensor.detach() for tensor in given]
    backward = (out.detach(), stored, plain[0], plain[1], plain[2], plain[3], index, GRID, 2, True, True, True, True)
    torch.library.opcheck(torch.ops.pam_kit.shuffle_project_backward, backward)


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_compiles_into_one_graph(dynamic):
    def operator(*given):
        return Op(*given, None, GRID, 2, False, True, True)[0] * 2

    def public(*given):
        return shuffle_project(*given, grid=GRID, ratio=2, order="column", kernels="auto")

    for function in (operator, public):
        torch._dynamo.reset()
        given = tensors(dtype=torch.float32)
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=dynamic)
        plain, fast = function(*given), compiled(*given)
        torch.testing.assert_close(fast, plain)
        by = [torch.autograd.grad(out.square().sum(), given) for out in (plain, fast)]
        torch.testing.assert_close(*by)


def test_compiled_projector_on_a_cpu_is_the_plain_one():
    torch._dynamo.reset()
    made = PixelShuffleMlp(C, D, later_ratio=4)
    tokens = torch.randn(2, 32, C), torch.randn(2, 3, C)
    compiled = torch.compile(lambda *given: made(PerceivedTokens(*given, GRID)).visual, backend="eager", fullgraph=True)
    assert torch.equal(compiled(*tokens), made(PerceivedTokens(*tokens, GRID)).visual)


def test_on_a_cpu_auto_is_what_torch_writes_bit_for_bit():
    given = tensors(dtype=torch.float32)
    merged = merge_neighbours(given[0], GRID, 2, "column")
    expected = F.linear(F.gelu(F.linear(merged, *given[1:3])), *given[3:])
    call = partial(shuffle_project, *given, grid=GRID, ratio=2, order="column")
    assert torch.equal(call(), expected)
    kept = torch.tensor([5, 0])
    torch.testing.assert_close(call(kept=kept), expected[:, kept])


def test_the_published_layout_is_the_column_order_of_the_golden_data(golden):
    expected, about = golden.load("perceiver/sem16_hw16_b1")
    keys, side = expected["keys_tokens"], int(about["hw"])
    width = 4 * keys.shape[-1]
    options = {"grid": (side, side), "ratio": 2, "order": "column", "gelu": False}
    assert torch.equal(shuffle_project(keys, torch.eye(width), **options), expected["official_half"])
    torch.manual_seed(0)
    mlp = torch.randn(9, width), torch.randn(9), torch.randn(4, 9), torch.randn(4)
    ours = shuffle_project(keys, *mlp, **{**options, "gelu": True})
    torch.testing.assert_close(published(keys, *mlp, ratio=2), ours, atol=1e-4, rtol=1e-4)


def test_launches_and_memory_of_the_projector():
    """One copy instead of two or three; the fused operator launches two kernels and keeps the pre-activation alone."""
    for case in cases():
        inputs = case.inputs("meta", torch.bfloat16)
        eager, view = (launches(case.providers[name], *inputs) for name in ("eager", "view"))
        copies = [sum(launch.name in ("copy_", "clone", "_to_copy") for launch in found) for found in (eager, view)]
        assert copies[1] == 1 < copies[0] and len(case.forward) < len(view) < len(eager)
        if case.backward:
            (tokens, weight, *_), half = inputs, 2
            rows = tokens.shape[0] * tokens.shape[1] // 4
            assert len(case.forward) == 2 and case.kept == rows * weight.shape[0] * half
            # torch keeps the merged tokens, the pre-activation and the activation.
            assert kept_bytes(case.providers["view"], *inputs) == 2 * case.kept + rows * weight.shape[1] * half


@pytest.mark.parametrize(("change", "message"), [
    ({"ratio": 3}, "ratio is 3"),
    ({"grid": (6, 6)}, r"grid of 6x6 needs \(R, 36, C\)"),
    ({"grid": (2, 16), "ratio": 4}, "divides both sides"),
    ({"ratio": 1}, "weight takes 24 channels"),
    ({"gelu": False}, "a second projection follows gelu=True"),
    ({"order": "diagonal"}, "order is row or column"),
    ({"store": "all"}, "store preactivation or nothing"),
    ({"kernels": "cuda"}, "choose one of auto, triton, torch"),
])  # fmt: skip
def test_errors_name_the_culprit(change, message):
    with pytest.raises(ValueError, match=message):
        shuffle_project(*tensors(), **{"grid": GRID, "ratio": 2, **change})
