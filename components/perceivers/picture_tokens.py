"""The picture's tokens as the backbone saw it before anything was pointed at: what rivals of PAM's perceiver share."""

from torch import Tensor, nn

from pam_kit.components.perceivers.two_way import FourierPositions
from pam_kit.contracts import RegionFeatures


class PictureTokens(nn.Module):
    """The source embedding cell by cell, with a learned map of each cell's place added.

    The regions of one picture have the same tokens, whatever their prompts. The vision transformers of the published
    systems add a position to every patch; a SAM-like embedding need not hold any, so it is added here. The map begins
    at zero.
    """

    def __init__(self, embed_dim: int):
        super().__init__()
        self.positions = FourierPositions(embed_dim)
        self.place = nn.Linear(embed_dim, embed_dim, bias=False)
        nn.init.zeros_(self.place.weight)

    def forward(self, regions: RegionFeatures) -> tuple[Tensor, tuple[int, int]]:
        """-> (R, h*w, C) in row-major order, and (h, w)."""
        image = regions.source_embedding
        grid = (image.shape[-2], image.shape[-1])
        return image.flatten(2).transpose(1, 2) + self.place(self.positions(grid)), grid
