"""The projector with a budget: which cells it keeps and what it makes of the others, against closed forms."""

import pytest
import torch

from pam_kit.components.projectors.pixel_shuffle_mlp import PixelShuffleMlp
from pam_kit.components.projectors.region_tokens import RegionTokens, best_cells, cell_scores
from pam_kit.contracts import PerceivedTokens
from pam_kit.errors import PamKitError, RecipeError
from pam_kit.kernels.shuffle_project import merge_neighbours

WIDTH, OUT = 8, 5
SURE = 40.0  # a logit whose sigmoid is 1 in float32


def perceived(grid, mask: torch.Tensor | None = None, count: int = 1, semantic: int = 3) -> PerceivedTokens:
    """Random tokens; ``mask`` (count, h, w) in {0, 1} on the feature grid."""
    torch.manual_seed(0)
    visual, extra = torch.randn(count, grid[0] * grid[1], WIDTH), torch.randn(count, semantic, WIDTH)
    logits = None
    if mask is not None:
        logits = ((2 * mask - 1) * SURE).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    return PerceivedTokens(visual, extra, grid, logits)


def drawn(grid, *places: tuple[int, int]) -> torch.Tensor:
    mask = torch.zeros(1, *grid)
    for y, x in places:
        mask[0, y, x] = 1
    return mask


def bare(made: RegionTokens) -> RegionTokens:
    """Let tokens come out as they go into the MLP."""
    made.visual = torch.nn.Identity()
    return made


def around(y: int, x: int, grid) -> list[int]:
    return sorted(v * grid[1] + u for v in range(y - 1, y + 2) for u in range(x - 1, x + 2))


@pytest.mark.parametrize("place", [(2, 3), (4, 1)])
def test_the_mask_and_its_surroundings_are_kept_in_raster_order(place):
    grid = (6, 6)
    tokens = perceived(grid, drawn(grid, place))
    out = bare(RegionTokens(WIDTH, OUT, ratio=1, budget=9, pooled=0))(tokens)
    assert torch.equal(out.visual, tokens.visual[:, around(*place, grid)])


def test_the_rest_becomes_averages_of_its_parts():
    """6x6 cells, 9 kept in the top left 3x3 and thus none left there: it is averaged whole; the others as they are."""
    grid = (6, 6)
    tokens = perceived(grid, drawn(grid, (1, 1)))
    out = bare(RegionTokens(WIDTH, OUT, ratio=1, budget=13, pooled=4))(tokens).visual
    image = tokens.visual.unflatten(1, grid)
    parts = [image[:, y : y + 3, x : x + 3].mean((1, 2)) for y in (0, 3) for x in (0, 3)]
    torch.testing.assert_close(out[:, 9:], torch.stack(parts, 1))

    # One cell fewer is kept, the last of nine equals; its part is that cell alone.
    out = bare(RegionTokens(WIDTH, OUT, ratio=1, budget=12, pooled=4))(tokens).visual
    left = [cell for cell in around(1, 1, grid) if not (out[0, :8] == tokens.visual[0, cell]).all(1).any()]
    assert len(left) == 1
    torch.testing.assert_close(out[:, 8], tokens.visual[:, left[0]])


def test_an_average_leaves_out_what_is_kept():
    grid = (4, 4)
    tokens = perceived(grid, torch.ones(1, *grid))
    tokens.mask_logits[:] = -SURE
    tokens.mask_logits[:, :, :4, :4] = SURE  # cell (0, 0); it and its neighbours score 1
    out = bare(RegionTokens(WIDTH, OUT, ratio=1, budget=5, pooled=1))(tokens).visual
    assert torch.equal(out[:, :4], tokens.visual[:, [0, 1, 4, 5]])
    others = [cell for cell in range(16) if cell not in (0, 1, 4, 5)]
    torch.testing.assert_close(out[:, 4], tokens.visual[:, others].mean(1))


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_a_cell_scores_its_own_probability_and_its_best_neighbours(ratio):
    size = (8 // ratio, 12 // ratio)
    logits = 3 * torch.randn(2, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    found, side = cell_scores(logits, size).unflatten(1, size), 4 * ratio
    share = logits.sigmoid()[:, 0].unflatten(1, (size[0], side)).unflatten(3, (size[1], side)).mean((2, 4))
    for y in range(size[0]):
        for x in range(size[1]):
            near = share[:, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            torch.testing.assert_close(found[:, y, x], (share[:, y, x] + near.amax((1, 2))) / 2)
    chosen = best_cells(found.flatten(1), 3)
    worst_kept = found.flatten(1).gather(1, chosen).amin(1)
    assert ((found.flatten(1) > worst_kept[:, None]).sum(1) < 3).all(), "nothing better was left out"
    assert (chosen.diff(dim=1) > 0).all()


def test_the_region_goes_before_its_surroundings():
    grid = (8, 8)
    region = [(y, x) for y in range(2, 6) for x in range(3, 6)]
    tokens = perceived(grid, drawn(grid, *region))
    out = bare(RegionTokens(WIDTH, OUT, ratio=1, budget=12, pooled=0))(tokens).visual
    assert torch.equal(out, tokens.visual[:, [8 * y + x for y, x in region]])


def test_equals_are_taken_evenly():
    assert best_cells(torch.zeros(1, 12), 4).tolist() == [[0, 3, 6, 9]]
    assert best_cells(torch.zeros(1, 10), 4).tolist() == [[0, 2, 5, 7]]
    # Of eight equals the even ones are every second; behind the best one the first two of them are taken.
    assert best_cells(torch.tensor([[0.0, 0, 0, 0, 0, 0, 0, 1]]), 3).tolist() == [[0, 2, 7]]
    assert best_cells(torch.tensor([[1.0, 2, 3], [3, 2, 1]]), 2).tolist() == [[1, 2], [0, 1]]


def test_where_the_region_is_absent_every_kth_cell_is_kept():
    grid = (4, 4)
    tokens = perceived(grid, torch.zeros(2, *grid), count=2)
    tokens.mask_logits[0] = -1024
    tokens.mask_logits[1, :, :4, :4] = 5.0
    out = bare(RegionTokens(WIDTH, OUT, ratio=1, budget=4, pooled=0))(tokens).visual
    assert torch.equal(out[0], tokens.visual[0, [0, 4, 8, 12]])
    assert torch.equal(out[1], tokens.visual[1, [0, 1, 4, 5]])


@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_a_budget_above_the_grid_is_plain_shuffling(ratio):
    """Exactly at first, and by the encodings of kind and place once these are learned."""
    grid = (8, 4)
    tokens = perceived(grid, torch.zeros(2, *grid), count=2)
    plain, made = PixelShuffleMlp(WIDTH, OUT, ratio=ratio), RegionTokens(WIDTH, OUT, ratio=ratio, budget=99)
    made.load_state_dict(plain.state_dict() | {k: v for k, v in made.state_dict().items() if k.startswith(("k", "p"))})
    expected, found = plain(tokens), made(tokens)
    torch.testing.assert_close(found.visual, expected.visual)
    torch.testing.assert_close(found.semantic, expected.semantic)

    torch.nn.init.normal_(made.kinds)
    torch.nn.init.normal_(made.place.weight)
    (h, w), cells = (8 // ratio, 4 // ratio), merge_neighbours(tokens.visual, grid, ratio)
    for index in range(h * w):
        centre = [(2 * (index // w) + 1) / h - 1, (2 * (index % w) + 1) / w - 1, 0.0]
        added = made.kinds[0] + made.place.weight @ torch.tensor(centre)
        torch.testing.assert_close(made(tokens).visual[:, index], plain.visual(cells[:, index] + added))


def test_an_average_says_its_centre_and_size():
    """Cells (0, 0) to (1, 1) of 4x4 are kept; of four parts none is left of one and all of three, of one part 12."""
    grid = (4, 4)
    tokens = perceived(grid, drawn(grid, (0, 0)))
    made = bare(RegionTokens(WIDTH, OUT, ratio=1, budget=8, pooled=4))
    torch.nn.init.normal_(made.kinds)
    torch.nn.init.normal_(made.place.weight)
    out, image = made(tokens).visual, tokens.visual.unflatten(1, grid)
    for number, (y, x) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        place = torch.tensor([(y + 1) / 2 - 1, (x + 1) / 2 - 1, torch.tensor(4.0).log()])
        expected = image[:, y : y + 2, x : x + 2].mean((1, 2)) + made.kinds[1] + made.place.weight @ place
        torch.testing.assert_close(out[:, 4 + number], expected)
    whole = bare(RegionTokens(WIDTH, OUT, ratio=1, budget=5, pooled=1))
    whole.load_state_dict({name: value for name, value in made.state_dict().items()})
    centre = torch.tensor([[-0.75, -0.25, 0.25, 0.75]])
    mean = (4 * centre.sum() - 2 * centre[0, :2].sum()) / 12
    expected = whole.kinds[1] + whole.place.weight @ torch.tensor([mean, mean, torch.tensor(12.0).log()])
    others = [cell for cell in range(16) if cell not in (0, 1, 4, 5)]
    torch.testing.assert_close(whole(tokens).visual[:, 4], tokens.visual[:, others].mean(1) + expected)


@pytest.mark.parametrize("grid", [(4, 4), (8, 12), (16, 16)])
@pytest.mark.parametrize("ratio", [1, 2, 4])
def test_number_of_visual_tokens_is_what_comes_out(grid, ratio):
    made = RegionTokens(WIDTH, OUT, ratio=ratio, budget=20, pooled=4, later_budget=7, later_pooled=1)
    tokens, cells = perceived(grid, torch.zeros(2, *grid), count=2), grid[0] * grid[1] // ratio**2
    for later, budget in ((False, 20), (True, 7)):
        out = made(tokens, later)
        assert out.visual.shape == (2, made.num_visual_tokens(grid, later), OUT) and out.semantic.shape == (2, 3, OUT)
        assert out.visual.shape[1] == min(budget, cells)


def test_later_frames_are_like_the_first_unless_told():
    made = RegionTokens(WIDTH, OUT, ratio=1, budget=20, pooled=4)
    tokens = perceived((8, 8), drawn((8, 8), (3, 3)))
    assert torch.equal(made(tokens, later=True).visual, made(tokens).visual)
    assert made.num_visual_tokens((8, 8), later=True) == 20 and made.clip_parameters() == []


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("budget", [6, 99])
def test_every_parameter_learns_from_pictures_and_clips_alike(budget, later):
    made = RegionTokens(WIDTH, OUT, ratio=1, budget=budget, pooled=4)
    tokens = perceived((4, 4), drawn((4, 4), (1, 2)))
    tokens.visual.requires_grad_()
    tokens.mask_logits.requires_grad_()
    out = made(tokens, later)
    (out.visual.square().sum() + out.semantic.square().sum()).backward()
    grads = {name: p.grad for name, p in made.named_parameters()}
    assert all(grad is not None and grad.any() for grad in grads.values())
    assert tokens.visual.grad.any(-1).all(), "what is pooled is seen too"
    assert tokens.mask_logits.grad is None


def test_neither_semantic_tokens_nor_regions_are_needed():
    made = RegionTokens(WIDTH, OUT, ratio=1, budget=6, pooled=4)
    out = made(perceived((4, 4), torch.zeros(0, 4, 4), count=0, semantic=0))
    assert out.visual.shape == (0, 6, OUT) and out.semantic.shape == (0, 0, OUT)


def test_without_a_mask_nothing_can_be_chosen():
    with pytest.raises(PamKitError, match="chooses tokens by the mask.*RegionVLM.perceive"):
        RegionTokens(WIDTH, OUT)(perceived((4, 4)))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"pooled": 5}, "projector.pooled is 5; choose a square"),
        ({"pooled": -1}, "projector.pooled is -1"),
        ({"budget": 16}, "projector.budget is 16, and 16 of it are averages"),
        ({"later_pooled": 3}, "projector.later_pooled is 3"),
        ({"later_budget": 9}, "projector.later_budget is 9, and 16 of it"),
    ],
)
def test_impossible_budgets_are_refused(arguments, reason):
    with pytest.raises(RecipeError, match=reason):
        RegionTokens(WIDTH, OUT, **arguments)


def test_a_grid_that_does_not_fit_is_refused():
    with pytest.raises(RecipeError, match="projector.ratio 4 does not divide the feature grid of 6x4"):
        RegionTokens(WIDTH, OUT, ratio=4).num_visual_tokens((6, 4))
    made = RegionTokens(WIDTH, OUT, ratio=1, budget=10, pooled=1, later_budget=30, later_pooled=25)
    assert made.num_visual_tokens((4, 8)) == 10
    with pytest.raises(RecipeError, match="projector.later_pooled 25 divides the picture into 5x5.*at most 16"):
        made.num_visual_tokens((4, 8), later=True)
