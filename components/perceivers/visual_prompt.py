"""A region as prompt tokens that say where was pointed: VP-LLaVA and VP-SPHINX."""

import torch
from torch import Tensor, nn

from pam_kit.components.perceivers.picture_tokens import PictureTokens
from pam_kit.components.perceivers.two_way import FourierPositions
from pam_kit.contracts import (
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    NEGATIVE_POINT,
    POSITIVE_POINT,
    PerceivedTokens,
    Perceiver,
    RegionFeatures,
    region_boxes,
)
from pam_kit.errors import RecipeError
from pam_kit.registry import register

_POSITIVE, _NEGATIVE, _CORNER, _INVALID = range(4)


@register("perceiver", "visual_prompt")
class VisualPrompt(Perceiver):
    """The whole picture's tokens, and beside them tokens of the box and the points themselves.

    After the visual prompt encoder of VP-LLaVA and VP-SPHINX (Draw-and-Understand, arXiv 2403.20271): the
    Fourier codes of coordinates plus a learned embedding of their type, mapped linearly to a token; places that a
    prompt does not fill are marked by an embedding of "invalid". The first token is the box, the others are points, in
    their order. Nothing here has seen the picture.

    Faithful: codes, types, validity, the linear map, tokens apart from the picture's. Otherwise: only the prompts of
    one region share a sequence, a box's two corners share a type, and a box token stands for whatever is no box or
    point: of a region that is pointed at by a mask, or followed through a clip, the tight box of its predicted mask.

    Args:
        num_points: places for points; further points are not read. Training draws up to three.
    """

    def __init__(self, embed_dim: int, num_points: int = 3):
        super().__init__()
        if num_points < 0:
            raise RecipeError([f"perceiver.num_points is {num_points}; it must be 0 or more"])
        self.num_points, self.num_semantic_tokens = num_points, 1 + num_points
        self.picture = PictureTokens(embed_dim)
        self.codes = FourierPositions(embed_dim)
        self.types = nn.Parameter(torch.randn(4, embed_dim))
        self.box = nn.Linear(2 * embed_dim, embed_dim)
        self.point = nn.Linear(embed_dim, embed_dim)

    def forward(self, regions: RegionFeatures) -> PerceivedTokens:
        visual, grid = self.picture(regions)
        points, labels = self._points(regions)
        boxes = region_boxes(regions)
        # A pointed-at place is no box, unless the prompt has both.
        has_corners = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        if regions.labels is not None:
            has_corners = ((regions.labels == BOX_TOP_LEFT) | (regions.labels == BOX_BOTTOM_RIGHT)).any(1)
        has_box = (has_corners | (labels == _INVALID).all(1)) & (boxes != 0).any(1)
        corner_types = torch.where(has_box, _CORNER, _INVALID)[:, None].expand(-1, 2)
        corners = self._coded(boxes.unflatten(1, (2, 2)), corner_types)
        tokens = torch.cat([self.box(corners.flatten(1))[:, None], self.point(self._coded(points, labels))], dim=1)
        return PerceivedTokens(visual, tokens, grid)

    def _points(self, regions: RegionFeatures) -> tuple[Tensor, Tensor]:
        """The first points of each prompt, (R, num_points, 2), and their types (R, num_points)."""
        count, device = len(regions.mask_logits), regions.mask_logits.device
        points = torch.zeros(count, self.num_points, 2, device=device)
        types = torch.full((count, self.num_points), _INVALID, device=device)
        if regions.points is None or regions.labels is None:
            return points, types
        is_point = (regions.labels == POSITIVE_POINT) | (regions.labels == NEGATIVE_POINT)
        order = (~is_point).to(torch.uint8).argsort(dim=1, stable=True)[:, : self.num_points]
        width = order.shape[1]
        kinds = torch.where(regions.labels == POSITIVE_POINT, _POSITIVE, _NEGATIVE).where(is_point, _INVALID)
        points[:, :width] = regions.points.gather(1, order[..., None].expand(-1, -1, 2)).to(points)
        types[:, :width] = kinds.gather(1, order)
        return points, types

    def _coded(self, places: Tensor, types: Tensor) -> Tensor:
        """Places (R, n, 2) in shares of the picture and their types (R, n) -> (R, n, C); an invalid one has no code."""
        codes = self.codes.of((2 * places - 1).to(self.codes.gaussian))
        return codes.where((types != _INVALID)[..., None], 0.0) + self.types[types]
