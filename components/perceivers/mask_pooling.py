"""A region as what lies under its mask, pooled: Osprey and RegionGPT."""

import torch
from torch import Tensor, nn

from pam_kit.components.perceivers.picture_tokens import PictureTokens
from pam_kit.contracts import PerceivedTokens, Perceiver, RegionFeatures, mask_shares
from pam_kit.errors import RecipeError
from pam_kit.registry import register


@register(
    "perceiver",
    "mask_pooling",
    presets={
        "osprey": {"position_token": True, "refine": False},
        "region_gpt": {"position_token": False, "refine": True},
    },
)
class MaskPooling(Perceiver):
    """The whole picture's tokens, and beside them the features under the region's mask averaged into one token.

    Osprey (arXiv 2312.10032) adds a second token that an MLP makes of the mask's shape and place. RegionGPT
    (arXiv 2403.02330) has no such token but up-samples the features four times with two learned
    deconvolutions first, and sends region and picture through one connector: ``projector=shared_connector``.

    Faithful: the pooling, the position token, the refinement. Otherwise: one level of stride 16 in the place of
    ConvNeXt's four (Osprey); the mask is the predicted one, each cell weighed by its mean probability, rather than one
    that a user draws; an empty mask gives a zero average. Text does not train the mask.

    Args:
        position_token: add the token of the mask's shape and place.
        position_side: the mask is brought to this many cells a side for it; Osprey takes 112 for masks of pictures of
            512 pixels.
        refine: up-sample the features before they are pooled.
    """

    def __init__(self, embed_dim: int, position_token: bool = True, position_side: int = 16, refine: bool = False):
        super().__init__()
        if position_side < 1:
            raise RecipeError([f"perceiver.position_side is {position_side}; it must be 1 or more"])
        self.num_semantic_tokens, self.position_side = 1 + position_token, position_side
        self.picture = PictureTokens(embed_dim)
        self.refinement = _doubling(embed_dim) if refine else nn.Identity()
        self.token = nn.Linear(embed_dim, embed_dim)
        self.position = None
        if position_token:
            cells = position_side**2
            self.position = nn.Sequential(nn.Linear(cells, embed_dim), nn.GELU(), nn.Linear(embed_dim, embed_dim))

    def forward(self, regions: RegionFeatures) -> PerceivedTokens:
        visual, grid = self.picture(regions)
        tokens = [self.token(mask_average(self.refinement(regions.source_embedding), regions.mask_logits))]
        if self.position is not None:
            shape = mask_shares(regions.mask_logits, (self.position_side, self.position_side)).flatten(1)
            tokens.append(self.position(shape.to(visual.dtype)))
        return PerceivedTokens(visual, torch.stack(tokens, dim=1), grid)


def mask_average(features: Tensor, mask_logits: Tensor) -> Tensor:
    """Features (R, C, Y, X) and mask logits (R, 1, 4h, 4w) -> (R, C): their mean under the mask; zero for an empty one.

    A cell weighs as much as the mean probability of the mask in it.
    """
    shares = mask_shares(mask_logits, (features.shape[-2], features.shape[-1])).flatten(1)
    shares = shares / shares.sum(1, keepdim=True).clamp_min(1e-6)
    return (features.flatten(2) @ shares[..., None].to(features.dtype)).squeeze(2)


def _doubling(width: int) -> nn.Sequential:
    """Twice twice the size: (R, C, h, w) -> (R, C, 4h, 4w)."""
    steps = (nn.ConvTranspose2d(width, width, 2, stride=2) for _ in range(2))
    return nn.Sequential(next(steps), nn.GELU(), next(steps))
