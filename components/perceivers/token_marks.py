"""A region as a mark that its cells carry and that stands beside the question: Omni-RGPT."""

from typing import Literal

import torch
from torch import Tensor, nn

from pam_kit.components.perceivers.picture_tokens import PictureTokens
from pam_kit.contracts import PerceivedTokens, Perceiver, RegionFeatures, mask_shares, region_boxes
from pam_kit.errors import RecipeError
from pam_kit.registry import register


@register("perceiver", "token_marks")
class TokenMarks(Perceiver):
    """The whole picture's tokens, those under the region with a mark added, and the same mark as the region's token.

    After Omni-RGPT (arXiv 2501.08326): the mark is one of a learned bank, drawn at random for each region in
    training so that it stands for no object, and repeated in the text. All frames of a clip would have the region's one
    mark there, which needs no tracker; here a region's frames draw theirs apart in training. Otherwise the first mark
    of the bank is taken.

    Faithful: bank, draw, marks under the region, repetition. Otherwise: one region a sequence, the predicted mask (or
    the box) in each frame, a cell marked as much as it is covered, and no auxiliary head. The region's token says
    nothing about what is there, so that words cannot be aligned with it: set train.loss.alignment to 0.

    Args:
        num_marks: size of the bank.
        under: mark the cells of the predicted mask, or of the box.
    """

    def __init__(self, embed_dim: int, num_marks: int = 100, under: Literal["mask", "box"] = "mask"):
        super().__init__()
        if num_marks < 1:
            raise RecipeError([f"perceiver.num_marks is {num_marks}; it must be 1 or more"])
        self.num_semantic_tokens, self.under = 1, under
        self.picture = PictureTokens(embed_dim)
        self.marks = nn.Parameter(torch.randn(num_marks, embed_dim))

    def forward(self, regions: RegionFeatures) -> PerceivedTokens:
        visual, grid = self.picture(regions)
        numbers = torch.zeros(len(visual), dtype=torch.long, device=visual.device)
        if self.training:
            numbers = torch.randint_like(numbers, len(self.marks))
        mark = self.marks[numbers][:, None]
        covered = mask_shares(regions.mask_logits, grid) if self.under == "mask" else box_shares(regions, grid)
        return PerceivedTokens(visual + covered.flatten(1)[..., None].to(visual.dtype) * mark, mark, grid)


def box_shares(regions: RegionFeatures, grid: tuple[int, int]) -> Tensor:
    """(R, h, w) in [0, 1]: how much of each cell the region's box covers."""
    boxes = region_boxes(regions)
    across, down = (_covered(boxes[:, axis::2], cells) for axis, cells in ((0, grid[1]), (1, grid[0])))
    return down[:, :, None] * across[:, None]


def _covered(spans: Tensor, cells: int) -> Tensor:
    """Spans (R, 2) in [0, 1] -> (R, cells): the share of each of so many equal cells that lies within."""
    starts = torch.arange(cells, device=spans.device, dtype=spans.dtype)
    low, high = spans[:, :1] * cells, spans[:, 1:] * cells
    return (torch.minimum(high, starts + 1) - torch.maximum(low, starts)).clamp(0, 1)
