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


@register("perceiver", "merged_mask_tokens")
class MergedMaskTokens(Perceiver):
    """The whole picture's tokens, and beside them a few tokens merged from the cells under the region's mask.

    After VideoRefer (arXiv 2501.00599), whose object encoder pools features under masks and merges
    neighbours in a sequence that are most alike until few are left. One token (num_tokens = 1) is the mask's average,
    VideoRefer's object token of a single picture.

    Faithful: pooling under the mask, merging neighbours by cosine similarity, averages of what was merged, an MLP.
    Otherwise: VideoRefer pools each frame to one token and merges over the frames; here a read frame of a clip is
    written as soon as it is there, so each frame has its own tokens, and what is merged is the sequence of cells under
    the mask, in raster order. The mask is the predicted one and not trained from here. Where fewer cells than
    ``num_tokens`` are under it, the tokens that are left over are the MLP's of zero.

    Args:
        num_tokens: tokens of a region in a frame.
        candidates: so many cells, those with the largest share of the mask, are merged; at most all there are.
    """

    def __init__(self, embed_dim: int, num_tokens: int = 4, candidates: int = 16):
        super().__init__()
        if not 1 <= num_tokens <= candidates:
            raise RecipeError(
                [f"perceiver.num_tokens is {num_tokens}; it must be from 1 to perceiver.candidates ({candidates})"]
            )
        self.num_semantic_tokens, self.candidates = num_tokens, candidates
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
