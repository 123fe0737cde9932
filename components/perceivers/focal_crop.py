"""A region as a closer look at it that knows the whole picture: the Describe Anything Model's localised backbone."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pam_kit.components.perceivers.two_way import Attention, FourierPositions
from pam_kit.contracts import CropWindow, PerceivedTokens, Perceiver, RegionFeatures, cropped, region_boxes
from pam_kit.errors import PamKitError, RecipeError
from pam_kit.registry import register


@register("perceiver", "focal_crop")
class FocalCrop(Perceiver):
    """The tokens of a crop around the region that have read the whole picture through gated cross-attention.

    After DAM (arXiv 2504.16072): a focal crop of three times the box and at least 48 pixels a side; the mask
    enters crop and picture as a further channel whose embedding begins at zero; in each block the crop's tokens read
    the picture's by cross-attention and an MLP, both behind a gate tanh(g) with g = 0 at the start. The decoder reads
    the crop's tokens alone: neither the picture's nor a region token (N = 0), so that there is nothing to align words
    with.

    Faithful: the crop, the mask channel, gates, what the decoder reads. Otherwise: the crop is cut out of the model's
    own picture, so it is larger but no sharper than that; both go through the backbone as it is, and the gated blocks
    stand behind it rather than between its layers; the mask channel is added to its embedding; places are told by
    Fourier codes, the crop's own in the picture. The mask is the predicted one and not trained from here; the box is
    the prompt's, and without one the mask's. In a clip every read frame is cropped.

    Args:
        depth: gated blocks.
        num_heads: attention heads.
        mlp_dim: hidden width of the blocks' MLPs.
        scale: sides of the crop, in sides of the box.
        least: shortest side of the crop, as a share of the picture's; DAM's 48 of 384 pixels.
    """

    def __init__(
        self,
        embed_dim: int,
        depth: int = 2,
        num_heads: int = 4,
        mlp_dim: int = 512,
        scale: float = 3.0,
        least: float = 0.125,
    ):
        super().__init__()
        if scale < 1 or not 0 < least <= 1:
            raise RecipeError(
                [f"perceiver.scale is {scale}, perceiver.least {least}; a crop has at least the box's size, and a side"]
            )
        self.num_semantic_tokens, self.crop = 0, CropWindow(scale, least)
        self.positions = FourierPositions(embed_dim)
        # Of a cell's 4 x 4 mask pixels.
        self.mask_channel = nn.Conv2d(1, embed_dim, 4, stride=4, bias=False)
        nn.init.zeros_(self.mask_channel.weight)
        self.blocks = nn.ModuleList(GatedBlock(embed_dim, num_heads, mlp_dim) for _ in range(depth))

    def forward(self, regions: RegionFeatures) -> PerceivedTokens:
        if regions.crop_embedding is None:
            raise PamKitError(
                "perceiver=focal_crop looks at crops, and was given none; use RegionVLM.segment, or "
                "RegionVLM.with_crops on what the backbone gives"
            )
        assert self.crop is not None
        windows = self.crop.around(region_boxes(regions))
        masks = regions.mask_logits.detach().float().sigmoid()
        rows = torch.arange(len(masks), device=masks.device)
        focal_masks = cropped(masks, rows, windows)
        picture, crop = (
            self._masked(regions.source_embedding, masks),
            self._masked(regions.crop_embedding, focal_masks),
        )
        grid = (crop.shape[-2], crop.shape[-1])
        tokens, codes = crop.flatten(2).transpose(1, 2), self.positions.of(_places(windows, grid) * 2 - 1)
        keys = picture.flatten(2).transpose(1, 2)
        key_codes = self.positions((picture.shape[-2], picture.shape[-1]))
        for block in self.blocks:
            tokens = block(tokens, keys, codes.to(tokens.dtype), key_codes)
        return PerceivedTokens(tokens, tokens[:, :0], grid, mask_logits=torch.logit(focal_masks, eps=1e-6))

    def _masked(self, image: Tensor, masks: Tensor) -> Tensor:
        """(R, C, h, w) with the embedding of the mask (R, 1, H, W) added to each cell."""
        height, width = image.shape[-2:]
        fine = F.interpolate(masks, (4 * height, 4 * width), mode="bilinear", align_corners=False)
        return image + self.mask_channel(fine.to(image.dtype))


class GatedBlock(nn.Module):
    """Tokens read a context and go through an MLP, each behind a gate that is closed at first (arXiv 2204.14198)."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_dim: int):
        super().__init__()
        self.attention = Attention(embed_dim, num_heads)
        self.mlp = nn.Sequential(nn.Linear(embed_dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, embed_dim))
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(2))
        self.gates = nn.Parameter(torch.zeros(2))

    def forward(self, tokens: Tensor, context: Tensor, token_codes: Tensor, context_codes: Tensor) -> Tensor:
        """Tokens (R, L, C) and context (R, K, C), with the codes of their places -> tokens (R, L, C)."""
        gates = self.gates.tanh()
        read = self.attention(self.norms[0](tokens) + token_codes, context + context_codes, context)
        tokens = tokens + gates[0] * read
        return tokens + gates[1] * self.mlp(self.norms[1](tokens))


def _places(windows: Tensor, grid: tuple[int, int]) -> Tensor:
    """Windows (R, 4) in shares of the picture -> (R, h*w, 2): x and y of their cells' centres, in shares, row-major."""
    y, x = ((torch.arange(n, device=windows.device, dtype=windows.dtype) + 0.5) / n for n in grid)
    inside = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)  # (h*w, 2)
    return windows[:, None, :2] + inside * (windows[:, None, 2:] - windows[:, None, :2])
