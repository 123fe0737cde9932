"""Projectors: the released PAM's outputs and token orders, torch's own pixel unshuffle, grids that do not fit."""

import pytest
import torch
import torch.nn.functional as F

from pam_kit.components.projectors.linear import LinearProjector
from pam_kit.components.projectors.pixel_shuffle_mlp import PixelShuffleMlp
from pam_kit.contracts import PerceivedTokens
from pam_kit.errors import PamKitError
from pam_kit.kernels.shuffle_project import merge_neighbours

RELEASED = {"visual": "mm_projector_img", "semantic": "mm_projector_semT"}
SMALL_GRIDS = ["perceiver/sem16_hw16_b1", "perceiver/sem4_hw16_b2", "perceiver/sem64_hw8_b1"]


def perceived(grid, count: int = 2, semantic: int = 3, width: int = 8) -> PerceivedTokens:
    torch.manual_seed(0)
    return PerceivedTokens(torch.randn(count, grid[0] * grid[1], width), torch.randn(count, semantic, width), grid)


def as_picture(tokens: torch.Tensor, grid) -> torch.Tensor:
    """(R, h*w, C) row-major -> (R, C, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def test_mlps_equal_the_released_ones(golden):
    expected, _ = golden.load("projectors/mlp2x_gelu_h64")
    made = PixelShuffleMlp(256, 64, ratio=2, token_order="column")
    made.load_state_dict(
        {f"{own}.{rest}": expected[f"weights.{RELEASED[own]}.{rest}"] for own, rest in
         (name.split(".", 1) for name in made.state_dict())}
    )  # fmt: skip
    # The golden tokens are merged ones: 32 squares of 2x2 neighbours, here in a grid of 16x8.
    squares = expected["image_tokens"].unflatten(1, (4, 8)).unflatten(3, (2, 2, 256))  # (B, X, Y, dy, dx, C)
    tokens = squares.permute(0, 2, 3, 1, 4, 5).reshape(2, 16 * 8, 256)
    out = made(PerceivedTokens(tokens, expected["sem_tokens"], (16, 8)))
    torch.testing.assert_close(out.visual, expected["image_out"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.semantic, expected["sem_out"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SMALL_GRIDS)
@pytest.mark.parametrize(("ratio", "words"), [(2, "half"), (4, "quarter")])
def test_both_token_orders_equal_the_golden_ones(golden, name, ratio, words):
    """The released order is ``column``; ``row`` is the one its authors meant."""
    expected, about = golden.load(name)
    keys, side = expected["keys_tokens"], int(about["hw"])
    row, column = (merge_neighbours(keys, (side, side), ratio, order) for order in ("row", "column"))
    if ratio == 2:
        assert torch.equal(row, expected["corrected_rowmajor_half"])
        assert torch.equal(column, expected["official_half"])
        return
    # At ratio 4 the released perceiver adds a linear map of its own, which treats each token by itself.
    seed, width = int(about["seed"]), keys.shape[-1]
    weight = golden.weight(seed, "proj.weight", (4 * width, 16 * width))
    bias = golden.weight(seed, "proj.bias", (4 * width,))
    torch.testing.assert_close(F.linear(row, weight, bias), expected["corrected_rowmajor_quarter"], atol=1e-4, rtol=0)
    torch.testing.assert_close(F.linear(column, weight, bias), expected["official_quarter"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("grid", [(4, 4), (8, 4), (4, 12)])
@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_merging_equals_torchs_pixel_unshuffle_but_for_the_order_of_channels(grid, ratio):
    """torch puts channel c of the neighbour (dy, dx) at c*r*r + dy*r + dx, the projector at (dy*r + dx)*C + c."""
    tokens = perceived(grid).visual
    unshuffled = F.pixel_unshuffle(as_picture(tokens, grid), ratio).unflatten(1, (8, ratio * ratio)).transpose(1, 2)
    row = unshuffled.flatten(1, 2).flatten(2).transpose(1, 2)
    column = unshuffled.flatten(1, 2).transpose(2, 3).flatten(2).transpose(1, 2)
    assert torch.equal(merge_neighbours(tokens, grid, ratio, "row"), row)
    assert torch.equal(merge_neighbours(tokens, grid, ratio, "column"), column)


@pytest.mark.parametrize("grid", [(6, 4), (5, 8), (3, 3)])
def test_a_grid_that_cannot_be_merged(grid):
    with pytest.raises((ValueError, PamKitError), match=f"{grid[0]}x{grid[1]}.*multiples"):
        PixelShuffleMlp(8, 5, ratio=4)(perceived(grid))


@pytest.mark.parametrize("grid", [(4, 4), (8, 4)])
@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_number_of_visual_tokens_is_what_comes_out(grid, ratio):
    made = PixelShuffleMlp(8, 5, ratio=ratio)
    out = made(perceived(grid))
    assert out.visual.shape == (2, made.num_visual_tokens(grid), 5) and out.semantic.shape == (2, 3, 5)
    assert made.num_visual_tokens(grid) == (grid[0] // ratio) * (grid[1] // ratio)


def test_each_token_is_projected_by_itself():
    """A change in one square of neighbours changes that square's token only, in both orders at its own place."""
    before, (h, w) = perceived((8, 4)), (8, 4)
    after = PerceivedTokens(before.visual.clone(), before.semantic, (h, w))
    y, x = 5, 3  # in square Y = 2, X = 1 of 4x2 squares
    after.visual[:, y * w + x] += 1
    for order, place in (("row", 2 * 2 + 1), ("column", 1 * 4 + 2)):
        torch.manual_seed(0)
        made = PixelShuffleMlp(8, 5, ratio=2, token_order=order)
        changed = (made(before).visual != made(after).visual).any(-1).any(0)
        assert changed.nonzero().flatten().tolist() == [place]


@pytest.mark.parametrize("semantic", [0, 3])
@pytest.mark.parametrize("projector", [PixelShuffleMlp, LinearProjector])
def test_neither_semantic_tokens_nor_regions_are_needed(projector, semantic):
    out = projector(8, 5)(perceived((4, 4), count=0, semantic=semantic))
    assert out.visual.shape[0] == 0 and out.semantic.shape == (0, semantic, 5)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_projector_is_a_matrix_product(bias):
    made, tokens = LinearProjector(8, 5, bias=bias), perceived((3, 4))
    out = made(tokens)
    shift = made.visual.bias if bias else 0
    torch.testing.assert_close(out.visual, torch.einsum("rnc,dc->rnd", tokens.visual, made.visual.weight) + shift)
    torch.testing.assert_close(made(PerceivedTokens(tokens.visual * 0, tokens.semantic * 0, (3, 4))).semantic[0, 0],
                               made.semantic.bias if bias else torch.zeros(5))  # fmt: skip
    assert made.num_visual_tokens((3, 4)) == 12 == out.visual.shape[1]
