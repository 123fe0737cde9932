"""A region as a few tokens, merged from what lies under its mask: VideoRefer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pam_kit.components.perceivers.picture_tokens import PictureTokens
from pam_kit.contracts import PerceivedTokens, Perceiver, RegionFeatures, mask_shares
from pam_kit.errors import RecipeError
from pam_kit.registry import register

# Below this sum of shares a token has too little of the mask behind it and fades to zero.
_ENOUGH = 0.1


@register(
    "perceiver",
    "merged_mask_tokens",
    presets={"videorefer": {"num_tokens": 1, "candidates": 4096, "clip_tokens": 4}},
)
class MergedMaskTokens(Perceiver):
    """The whole picture's tokens, and beside them a few tokens merged from the cells under the region's mask.

    After VideoRefer (arXiv 2501.00599), whose object encoder pools features under masks and merges
    neighbours in a sequence that are most alike until few are left. One token (num_tokens = 1) of all cells is the
    mask's average, VideoRefer's object token of a single picture.

    Faithful (preset ``videorefer``): pooling under the mask, merging the frames that are most alike by the cosine of
    neighbours, averages of what was merged, an MLP. Otherwise: frames are merged behind the MLPs of perceiver and
    projector, not ahead of them, so that a stream makes its tokens frame by frame; similarity to a frame in which the
    object is out of sight counts like any other. With more than one token a frame, the cells under the mask are merged
    likewise, in raster order. The mask is the predicted one and not trained from here. Where fewer cells than
    ``num_tokens`` are under it, the tokens that are left over are the MLP's of zero.

    Args:
        num_tokens: tokens of a region in a picture or a frame.
        candidates: so many cells, those with the largest share of the mask, are merged; at most all there are.
        clip_tokens: the tokens of a clip's read frames are merged into at most so many, which stand at its end; null:
            each frame has its own.
    """

    def __init__(self, embed_dim: int, num_tokens: int = 4, candidates: int = 16, clip_tokens: int | None = None):
        super().__init__()
        if not 1 <= num_tokens <= candidates:
            raise RecipeError(
                [f"perceiver.num_tokens is {num_tokens}; it must be from 1 to perceiver.candidates ({candidates})"]
            )
        if clip_tokens is not None and clip_tokens < num_tokens:
            raise RecipeError(
                [f"perceiver.clip_tokens is {clip_tokens}; it must be at least perceiver.num_tokens ({num_tokens})"]
            )
        self.num_semantic_tokens, self.candidates, self.clip_tokens = num_tokens, candidates, clip_tokens or 0
        self.picture = PictureTokens(embed_dim)
        self.mlp = nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.GELU(), nn.Linear(embed_dim, embed_dim))

    def forward(self, regions: RegionFeatures) -> PerceivedTokens:
        visual, grid = self.picture(regions)
        if grid[0] * grid[1] < self.num_semantic_tokens:
            raise RecipeError(
                [f"perceiver.num_tokens is {self.num_semantic_tokens}, but a picture has {grid[0]}x{grid[1]} cells"]
            )
        shares = mask_shares(regions.mask_logits, grid).flatten(1).to(visual.dtype)
        chosen = shares.argsort(dim=1, descending=True, stable=True)[:, : self.candidates].sort(dim=1).values
        cells = regions.source_embedding.flatten(2).transpose(1, 2)
        cells = cells.gather(1, chosen[..., None].expand(-1, -1, cells.shape[2]))
        tokens = merged(cells, shares.gather(1, chosen), self.num_semantic_tokens)
        return PerceivedTokens(visual, self.mlp(tokens), grid)

    def merged_over_frames(self, tokens: Tensor) -> Tensor:
        count = min(tokens.shape[1], self.clip_tokens)
        return merged(tokens, tokens.new_ones(tokens.shape[:2]), count)


def merged(cells: Tensor, weights: Tensor, count: int) -> Tensor:
    """Sequences of cells (R, K, C) with weights (R, K) -> (R, count, C): averages of ``count`` runs of neighbours.

    A sequence is cut at the count - 1 places where neighbours are least alike, counted as 1 - cosine times the smaller
    of their weights, so that cells without weight part nothing. A run without weight is zero.
    """
    unlike = 1 - F.cosine_similarity(cells[:, 1:], cells[:, :-1], dim=2)
    unlike = (unlike * torch.minimum(weights[:, 1:], weights[:, :-1])).detach()
    cuts = unlike.argsort(dim=1, descending=True, stable=True)[:, : count - 1]
    run = F.pad(torch.zeros_like(unlike).scatter(1, cuts, 1.0).cumsum(1), (1, 0)).long()
    inside = F.one_hot(run, count).to(cells.dtype) * weights[..., None]  # (R, K, count)
    return inside.transpose(1, 2) @ cells / inside.sum(1).clamp_min(_ENOUGH)[..., None]
