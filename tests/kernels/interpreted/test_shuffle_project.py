"""shuffle_project's kernels against torch in float64: odd shapes, both orders, dropped tokens, strides, poison."""

from functools import partial

import pytest
import torch

from pam_kit.components.projectors.pixel_shuffle_mlp import PixelShuffleMlp
from pam_kit.contracts import PerceivedTokens
from pam_kit.kernels import shuffle_project
from pam_kit.kernels.shuffle_project import launch, table
from pam_kit.kernels.shuffle_project.reference import Shuffle, project

# Root mean square of the error, relative to that of the value. Under the interpreter bfloat16 is cut off, not rounded.
BARS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}
# Regions, grid, C, N, D (None: one projection), ratio, order, share of tokens kept, what is stored.
CASES = {
    "square": (2, (4, 8), 32, 40, 24, 2, "column", None, "preactivation"),
    "dropped": (2, (6, 4), 48, 33, 20, 2, "row", 0.5, "preactivation"),
    "odd": (3, (3, 5), 24, 17, None, 1, "row", 0.4, "nothing"),
    "wide": (1, (8, 4), 16, 130, 9, 4, "column", None, "nothing"),
    "single": (1, (2, 2), 8, 16, 3, 2, "row", None, "nothing"),
    "tall": (2, (24, 12), 16, 12, None, 2, "column", None, "preactivation"),
}
ROWS = [(name, torch.float32) for name in CASES]
ROWS += [("square", torch.float16), ("odd", torch.float16), ("square", torch.bfloat16), ("dropped", torch.bfloat16)]


def make(regions, grid, width, first, second, ratio, order, share, store, dtype=torch.float32):
    """Tensors, kept tokens, and shuffle_project with the case's arguments."""
    torch.manual_seed(0)
    count, merged = grid[0] * grid[1], ratio**2 * width
    tensors = [torch.randn(regions, count, width), torch.randn(first, merged) * merged**-0.5, torch.randn(first)]
    tensors += [None, None] if second is None else [torch.randn(second, first) * first**-0.5, torch.randn(second)]
    kept = None
    if share:
        small = count // ratio**2
        kept = torch.stack([torch.randperm(small)[: round(share * small)] for _ in range(regions)])
    call = partial(shuffle_project, grid=grid, ratio=ratio, order=order, kept=kept, store=store, kernels="triton")
    return [None if tensor is None else tensor.to(dtype) for tensor in tensors], kept, call


def differentiated(call, tensors, upstream=None):
    """The result, and the derivatives by every tensor that is given."""
    leaves = [None if tensor is None else tensor.detach().requires_grad_() for tensor in tensors]
    out = call(*leaves)
    if upstream is None:
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    out.backward(upstream.to(out.dtype))
    return out.detach(), upstream, [leaf.grad for leaf in leaves if leaf is not None]


def error(value: torch.Tensor, expected: torch.Tensor) -> float:
    return ((value.double() - expected).pow(2).mean().sqrt() / expected.pow(2).mean().sqrt()).item()


@pytest.mark.parametrize(("name", "dtype"), ROWS)
def test_forward_and_backward_agree_with_torch_in_float64(name, dtype, poisoned):
    tensors, kept, call = make(*CASES[name], dtype=dtype)
    given = [None if tensor is None else poisoned(tensor) for tensor in tensors]
    out, upstream, gradients = differentiated(call, given)
    _, grid, _, _, _, ratio, order, _, _ = CASES[name]
    plain = partial(project, kept=kept, shuffle=Shuffle(grid, ratio, order, True))
    doubles = [None if tensor is None else tensor.double() for tensor in tensors]
    expected, _, expected_gradients = differentiated(plain, doubles, upstream)
    assert error(out, expected) < BARS[dtype]
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype == dtype and error(gradient, wanted) < BARS[dtype]
    for tensor, left in zip(tensors, given, strict=True):
        assert tensor is None or torch.equal(tensor, left), "an input was written to"


@pytest.mark.parametrize("name", ["dropped", "odd"])
def test_nothing_is_written_beside_a_tensor_and_nothing_is_left_out(name, guarded):
    (tokens, weight, bias, _, _), kept, _ = make(*CASES[name])
    _, grid, _, _, _, ratio, order, _, _ = CASES[name]
    shuffle = Shuffle(grid, ratio, order, True)
    with guarded():
        out, before = launch.first_layer(tokens, weight, bias, kept, shuffle, True)
        slopes, by_bias = launch.slopes(torch.ones_like(out).fill_(1), before)
        by_tokens = launch.tokens_gradient(slopes, weight, kept, shuffle, tokens.shape)
        by_weight = launch.weight_gradient(slopes, tokens, kept, shuffle)
    assert not any(value.isnan().any() for value in (out, before, slopes, by_bias, by_tokens, by_weight))


def test_two_runs_are_bit_identical_also_where_the_sum_over_rows_is_split(monkeypatch):
    monkeypatch.setattr(table, "ROWS_WORTH_A_PART", 64)
    assert table.parts_of_sum(3 * 70, 1, 16) == (3, 80)
    tensors, _, call = make(3, (7, 10), 16, 16, None, 1, "row", None, "preactivation")
    first, again = (differentiated(call, tensors) for _ in range(2))
    assert torch.equal(first[0], again[0]) and all(map(torch.equal, first[2], again[2]))
    expected = differentiated(
        partial(project, kept=None, shuffle=Shuffle((7, 10), 1, "row", True)),
        [None if tensor is None else tensor.double() for tensor in tensors], first[1],
    )  # fmt: skip
    assert all(error(value, wanted) < 2e-6 for value, wanted in zip(first[2], expected[2], strict=True))


def test_what_is_stored_changes_nothing_but_the_memory():
    tensors, _, call = make(*CASES["square"])
    stored, computed = (differentiated(partial(call, store=store), tensors) for store in ("preactivation", "nothing"))
    assert torch.equal(stored[0], computed[0]) and all(map(torch.equal, stored[2], computed[2]))


def test_strides_and_frozen_parts():
    tensors, _, call = make(*CASES["square"])
    out, upstream, gradients = differentiated(call, tensors)
    apart = torch.stack([tensors[0], torch.zeros_like(tensors[0])], -1)[..., 0]
    turned = tensors[0].transpose(0, 1).contiguous().transpose(0, 1)
    within = torch.cat([tensors[0], torch.zeros_like(tensors[0])], -1)[..., :32]
    for tokens in (apart, turned, within):
        assert not tokens.is_contiguous()
        again = differentiated(call, [tokens, *tensors[1:]], upstream)
        assert torch.equal(again[0], out) and all(map(torch.equal, again[2], gradients))
    frozen = [tensors[0].requires_grad_(), *(tensor.detach() for tensor in tensors[1:])]
    call(*frozen).backward(upstream)
    assert torch.equal(frozen[0].grad, gradients[0]) and frozen[1].grad is None


def test_no_region_and_no_kept_token():
    tensors, _, call = make(0, (4, 4), 16, 8, 5, 2, "row", None, "preactivation")
    out, _, gradients = differentiated(call, tensors)
    assert out.shape == (0, 4, 5) and all(not gradient.any() for gradient in gradients)
    tensors, _, call = make(2, (4, 4), 16, 8, 5, 2, "row", None, "nothing")
    out, _, gradients = differentiated(partial(call, kept=torch.zeros(0, dtype=torch.long)), tensors)
    assert out.shape == (2, 0, 5) and all(not gradient.any() for gradient in gradients)


def test_offsets_beyond_32_bits():
    """The third region lies 2^31 elements behind the first, in memory of which almost nothing is ever touched."""
    buffer = torch.empty(2**31 + 1024, dtype=torch.float16)
    tokens = buffer.as_strided((3, 4, 16), (2**30, 16, 1))
    tensors, _, call = make(3, (2, 2), 16, 8, None, 2, "row", None, "preactivation", dtype=torch.float16)
    near = tensors[0].clone()
    tokens.copy_(near)
    out, upstream, gradients = differentiated(call, [tokens, *tensors[1:]])
    expected, _, expected_gradients = differentiated(call, [near, *tensors[1:]], upstream)
    assert torch.equal(out, expected) and all(map(torch.equal, gradients, expected_gradients))


def test_the_column_order_is_the_released_one(golden):
    expected, about = golden.load("perceiver/sem64_hw8_b1")
    keys, side = expected["keys_tokens"], int(about["hw"])
    options = {"grid": (side, side), "ratio": 2, "gelu": False, "kernels": "triton"}
    some = torch.eye(4 * keys.shape[-1])[::7]
    assert torch.equal(shuffle_project(keys, some, order="column", **options), expected["official_half"][..., ::7])
    assert torch.equal(
        shuffle_project(keys, some, order="row", **options), expected["corrected_rowmajor_half"][..., ::7]
    )


@pytest.mark.parametrize(("later_ratio", "later"), [(None, False), (4, False), (4, True)])
@pytest.mark.parametrize("order", ["row", "column"])
def test_the_projector_gives_the_same_with_and_without_kernels(later_ratio, later, order):
    torch.manual_seed(0)
    tokens = PerceivedTokens(torch.randn(2, 32, 16), torch.randn(2, 3, 16), (4, 8))
    made = PixelShuffleMlp(16, 24, later_ratio=later_ratio, token_order=order)
    results = []
    for made.kernels in ("torch", "triton"):
        made.zero_grad()
        out = made(tokens, later=later)
        (out.visual.square().sum() + out.semantic.sum()).backward()
        results.append([out.visual, *(parameter.grad for parameter in made.parameters())])
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(plain, fused, atol=1e-4, rtol=1e-4)


def test_autocast_computes_in_its_type():
    tensors, _, call = make(*CASES["square"])
    with torch.autocast("cpu", torch.float16):
        out = call(*tensors)
    assert out.dtype == torch.float16 and error(out, call(*tensors).double()) < 2e-3
