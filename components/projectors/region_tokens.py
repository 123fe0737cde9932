"""A projector with a fixed budget: visual tokens in and around the mask stay, the rest of the picture is pooled."""

from math import isqrt
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pam_kit.components.projectors.pixel_shuffle_mlp import two_layer_mlp
from pam_kit.contracts import PerceivedTokens, ProjectedTokens, Projector, mask_shares
from pam_kit.errors import PamKitError, RecipeError
from pam_kit.kernels.shuffle_project import merge_neighbours
from pam_kit.registry import register


@register("projector", "region_tokens")
class RegionTokens(Projector):
    """Keeps the visual tokens where the predicted mask is and averages the others, so that a frame costs few tokens.

    Tokens are merged r x r into cells, as pixel_shuffle_mlp does. A cell scores its mean mask probability and that of
    the best of itself and its eight neighbours, half each, so that the region goes first and its surroundings follow;
    the best ``budget - pooled`` cells are kept, in raster order. Cells that score alike are taken evenly over the
    picture, every k-th of it in raster order first; where the region is absent all are alike. Behind the kept cells
    stand ``pooled`` averages over the other cells, one for each part of a square division of the picture; a part of
    which every cell was kept is averaged over all of them. A picture of at most ``budget`` cells is kept whole, without
    averages.

    What a token is and where, its order no longer tells: a learned vector for each of the two kinds and a linear map of
    its centre and the logarithm of its size in cells are added ahead of the MLP. Both begin at zero. The mask chooses
    tokens and has no gradient from here. Pictures and all frames of clips use the same parameters.

    Args:
        ratio: r; visual tokens become r^2 times fewer and r^2 times wider before anything is chosen.
        budget: visual tokens of a picture or the first frame of a clip, averages included; more than ``pooled``.
        pooled: how many of them are averages; a square number, 0 for none.
        later_budget: visual tokens of each later frame of a clip; null is as many as of the first.
        later_pooled: how many of them are averages; null is as many as of the first.
    """

    def __init__(
        self,
        embed_dim: int,
        output_dim: int,
        ratio: Literal[1, 2, 4] = 2,
        budget: int = 256,
        pooled: int = 16,
        later_budget: int | None = None,
        later_pooled: int | None = None,
    ):
        super().__init__()
        later = (budget if later_budget is None else later_budget, pooled if later_pooled is None else later_pooled)
        _check_budget("", budget, pooled)
        _check_budget("later_", *later)
        self.ratio, self._first, self._later = ratio, (budget, pooled), later
        width = embed_dim * ratio**2
        self.kinds = nn.Parameter(torch.zeros(2, width))  # of a kept cell, of an average
        self.place = nn.Linear(3, width, bias=False)
        nn.init.zeros_(self.place.weight)
        self.visual = two_layer_mlp(width, output_dim)
        self.semantic = two_layer_mlp(embed_dim, output_dim)

    def forward(self, tokens: PerceivedTokens, later: bool = False) -> ProjectedTokens:
        if tokens.mask_logits is None:
            raise PamKitError(
                "projector=region_tokens chooses tokens by the mask, and was given none; use RegionVLM.perceive, or "
                "set PerceivedTokens.mask_logits"
            )
        cells = merge_neighbours(tokens.visual, tokens.grid, self.ratio)
        size = (tokens.grid[0] // self.ratio, tokens.grid[1] // self.ratio)
        budget, pooled = self._later if later else self._first
        if cells.shape[1] <= budget:
            rows = torch.arange(cells.shape[1], device=cells.device).expand(len(cells), -1)
            return self._project(self._kept(cells, rows, size), tokens.semantic)
        rows = best_cells(cell_scores(tokens.mask_logits, size), budget - pooled)
        parts = [self._kept(cells, rows, size)]
        if pooled:
            parts.append(self._averages(cells, rows, size, isqrt(pooled)))
        return self._project(torch.cat(parts, 1), tokens.semantic)

    def num_visual_tokens(self, grid: tuple[int, int], later: bool = False) -> int:
        (h, w), (budget, pooled), word = grid, self._later if later else self._first, "later_" if later else ""
        if h % self.ratio or w % self.ratio:
            raise RecipeError(
                [
                    f"projector.ratio {self.ratio} does not divide the feature grid of {h}x{w}; choose another ratio "
                    "or backbone.image_size"
                ]
            )
        size = (h // self.ratio, w // self.ratio)
        if size[0] * size[1] <= budget:
            return size[0] * size[1]
        if isqrt(pooled) > min(size):
            raise RecipeError(
                [
                    f"projector.{word}pooled {pooled} divides the picture into {isqrt(pooled)}x{isqrt(pooled)} parts, "
                    f"but it has {size[0]}x{size[1]} cells; choose at most {min(size) ** 2}"
                ]
            )
        return budget

    def _project(self, visual: Tensor, semantic: Tensor) -> ProjectedTokens:
        return ProjectedTokens(visual=self.visual(visual), semantic=self.semantic(semantic))

    def _kept(self, cells: Tensor, rows: Tensor, size: tuple[int, int]) -> Tensor:
        """Cells (R, n, width) of ``rows`` (R, n), with their kind and place."""
        chosen = cells.gather(1, rows[..., None].expand(-1, -1, cells.shape[2]))
        centres = _centres(size, cells.device)[rows]
        return self._placed(chosen, 0, centres, torch.ones_like(centres[..., :1]))

    def _averages(self, cells: Tensor, rows: Tensor, size: tuple[int, int], side: int) -> Tensor:
        """Averages (R, side^2, width) over the cells that are not among ``rows``, with their kind and place."""
        weights = torch.ones(cells.shape[:2], device=cells.device).scatter(1, rows, 0.0)
        inside = _division(size, side, cells.device)
        weights = weights[:, None] * inside
        weights = torch.where(weights.any(-1, keepdim=True), weights, inside)
        counts = weights.sum(-1, keepdim=True)
        weights = weights / counts
        return self._placed(weights.to(cells.dtype) @ cells, 1, weights @ _centres(size, cells.device), counts)

    def _placed(self, tokens: Tensor, kind: int, centres: Tensor, counts: Tensor) -> Tensor:
        place = torch.cat([centres, counts.log()], -1).to(self.place.weight.dtype)
        return tokens + self.kinds[kind] + self.place(place)


def cell_scores(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(R, 1, 4h, 4w) -> (R, Y*X) in [0, 1]: mean mask probability, half a cell's own and half its best neighbour's."""
    share = mask_shares(mask_logits, size)[:, None]
    return (share + F.max_pool2d(share, 3, stride=1, padding=1)).flatten(1) / 2


def best_cells(scores: Tensor, count: int) -> Tensor:
    """Scores (R, n) -> the cells (R, count) that score best, in ascending order; ``count`` is at most n.

    Among equals those at floor(i * n / count), i = 0, 1, ..., come first, then the others, both in ascending order.
    """
    every = torch.arange(count, device=scores.device) * scores.shape[1] // count
    others = torch.ones(scores.shape[1], dtype=torch.bool, device=scores.device).index_fill(0, every, False)
    order = torch.cat([every, others.nonzero()[:, 0]])
    best = scores[:, order].argsort(dim=1, descending=True, stable=True)[:, :count]
    return order[best].sort(dim=1).values


def _centres(size: tuple[int, int], device: torch.device) -> Tensor:
    """(Y*X, 2): y and x of the centres of all cells, in [-1, 1]."""
    y, x = ((torch.arange(n, device=device) + 0.5) * 2 / n - 1 for n in size)
    return torch.cartesian_prod(y, x)


def _division(size: tuple[int, int], side: int, device: torch.device) -> Tensor:
    """(side^2, Y*X): 1 where a cell lies in a part of the picture, 0 elsewhere; parts in raster order."""
    y, x = (torch.arange(n, device=device) * side // n for n in size)
    part = (y[:, None] * side + x).flatten()
    return F.one_hot(part, side * side).T.float()


def _check_budget(word: str, budget: int, pooled: int) -> None:
    problems = []
    if pooled < 0 or isqrt(max(pooled, 0)) ** 2 != pooled:
        problems.append(f"projector.{word}pooled is {pooled}; choose a square number such as 0, 4, 9 or 16")
    if budget <= pooled:
        problems.append(
            f"projector.{word}budget is {budget}, and {pooled} of it are averages (projector.{word}pooled); choose a "
            "larger budget, so that some tokens are kept"
        )
    if problems:
        raise RecipeError(problems)
