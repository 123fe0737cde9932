"""A region as what its box shows: GPT4RoI and GLaMM."""

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from pam_kit.components.perceivers.picture_tokens import PictureTokens
from pam_kit.contracts import PerceivedTokens, Perceiver, RegionFeatures, region_boxes
from pam_kit.errors import RecipeError
from pam_kit.registry import register


@register("perceiver", "roi_align")
class RoiAlignEncoder(Perceiver):
    """The whole picture's tokens, and beside them one token of the features within the box, with the box's place added.

    After GPT4RoI (arXiv 2307.03601), whose module GLaMM (arXiv 2311.03356) takes over for its input
    regions: RoIAlign (arXiv 1703.06870) of the features, a convolution, all cells mapped to one vector, and an MLP of
    the four coordinates added.

    Faithful: RoIAlign without rounding, the convolution, flattening rather than averaging, the MLP of the box.
    Otherwise: one level of stride 16 in the place of CLIP's four, so nothing is fused, and a window of 7 x 7 cells, as
    a detector's, for 14 x 14. The box is the prompt's, and without one the predicted mask's; where there is none the
    token is of an empty window at the picture's corner.

    Args:
        output_size: cells a side of the window.
        sampling_ratio: samples a side of each cell.
    """

    def __init__(self, embed_dim: int, output_size: int = 7, sampling_ratio: int = 2):
        super().__init__()
        if output_size < 1 or sampling_ratio < 1:
            raise RecipeError(
                [f"perceiver.output_size is {output_size}, sampling_ratio {sampling_ratio}; both must be 1 or more"]
            )
        self.num_semantic_tokens, self.output_size, self.sampling_ratio = 1, output_size, sampling_ratio
        self.picture = PictureTokens(embed_dim)
        self.convolution = nn.Conv2d(embed_dim, embed_dim, 3, padding=1)
        self.flat = nn.Linear(embed_dim * output_size**2, embed_dim)
        self.place = nn.Sequential(nn.Linear(4, embed_dim), nn.ReLU(), nn.Linear(embed_dim, embed_dim))

    def forward(self, regions: RegionFeatures) -> PerceivedTokens:
        visual, grid = self.picture(regions)
        boxes = region_boxes(regions)
        window = self.window(regions.source_embedding, boxes)
        token = self.flat(self.convolution(window).relu().flatten(1)) + self.place(boxes.to(visual.dtype))
        return PerceivedTokens(visual, token[:, None], grid)

    def window(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Features (R, C, h, w) and their boxes (R, 4) in shares of the picture -> (R, C, output_size, output_size)."""
        height, width = features.shape[-2:]
        scaled = boxes * boxes.new_tensor([width, height, width, height])
        rows = torch.arange(len(boxes), device=boxes.device, dtype=scaled.dtype)[:, None]
        # In fp32: coordinates rounded to 16 bits would move by a share of a cell.
        found = roi_align(
            features.float(),
            torch.cat([rows, scaled], dim=1).float(),
            (self.output_size, self.output_size),
            sampling_ratio=self.sampling_ratio,
            aligned=True,
        )
        return found.to(features.dtype)
