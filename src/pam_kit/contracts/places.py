"""Where a region lies in its picture, as tensors: tight boxes of masks, boxes that prompts name, windows to crop."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pam_kit.contracts.batches import RegionFeatures
from pam_kit.contracts.samples import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, POSITIVE_POINT


@dataclass(frozen=True)
class CropWindow:
    """What of a picture a region's crop shows: ``scale`` times its box around the box's middle, cut to the picture.

    ``least``: the shortest side before it is cut, as a share of the picture's.
    """

    scale: float
    least: float

    def around(self, boxes: Tensor) -> Tensor:
        """Boxes (R, 4) -> windows (R, 4), both x1, y1, x2, y2 in shares of the picture.

        A box without extent stands for a region that is out of sight: its window is the whole picture.
        """
        low, high = boxes[:, :2], boxes[:, 2:]
        half = ((high - low) * self.scale).clamp_min(self.least) / 2
        middle = (low + high) / 2
        windows = torch.cat([middle - half, middle + half], dim=1).clamp(0, 1)
        whole = windows.new_tensor([0.0, 0.0, 1.0, 1.0])
        return torch.where((boxes == 0).all(1, keepdim=True), whole, windows)


def mask_boxes(masks: Tensor, side: float = 1.0) -> Tensor:
    """(R, 1, H, W) bool -> (R, 4): tight boxes x1, y1, x2, y2 in a picture of ``side`` x ``side``, by default shares.

    The whole picture for an empty mask.
    """
    bounds = []
    for axis, cells in ((2, masks.shape[3]), (3, masks.shape[2])):
        line = masks.any(dim=axis)[:, 0].to(torch.uint8)
        ends = torch.stack([line.argmax(1), cells - line.flip(1).argmax(1)], dim=1)
        bounds.append(ends * (side / cells))
    return torch.stack(bounds, dim=2).flatten(1)


def region_boxes(regions: RegionFeatures) -> Tensor:
    """(R, 4): the box of each region, x1, y1, x2, y2 in shares of the picture.

    The box that the region is pointed at with in this frame, as it was given; else the tight box of the predicted mask;
    where that is empty, around the positive points; all zero where there is none of these: the region is out of sight.
    """
    masks = regions.mask_logits > 0
    seen = masks.flatten(1).any(1)[:, None]
    boxes = torch.where(seen, mask_boxes(masks), 0.0).to(regions.mask_logits.device)
    if regions.points is None or regions.labels is None or not regions.points.shape[1]:
        return boxes
    positive = _around(regions.points, regions.labels >= POSITIVE_POINT)
    pointed = (regions.labels == POSITIVE_POINT).any(1, keepdim=True)
    boxes = torch.where(pointed & ~seen, positive, boxes)
    corners = (regions.labels == BOX_TOP_LEFT) | (regions.labels == BOX_BOTTOM_RIGHT)
    return torch.where(corners.any(1, keepdim=True), _around(regions.points, corners), boxes)


def _around(points: Tensor, chosen: Tensor) -> Tensor:
    """(R, 4): around the chosen of P points (R, P, 2); infinite where none is."""
    far = float("inf")
    low = points.masked_fill(~chosen[..., None], far).amin(1)
    high = points.masked_fill(~chosen[..., None], -far).amax(1)
    return torch.cat([low, high], dim=1)


def mask_shares(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(R, 1, H, W) -> (R, Y, X) in [0, 1]: the mean probability of the mask in each cell; no gradient to the mask."""
    return F.adaptive_avg_pool2d(mask_logits.detach().float().sigmoid(), size)[:, 0]


def cropped(images: Tensor, image_index: Tensor, windows: Tensor) -> Tensor:
    """B pictures (B, c, H, W) and R windows (R, 4) in shares -> (R, c, H, W): each window at the picture's own size.

    Bilinear, from the middle of each pixel; whole numbers come out rounded.
    """
    height, width = images.shape[-2:]
    low, size = windows[:, :2], windows[:, 2:] - windows[:, :2]
    x, y = ((torch.arange(n, device=images.device) + 0.5) / n for n in (width, height))
    across = low[:, :1] + size[:, :1] * x.to(windows)  # (R, W)
    down = low[:, 1:] + size[:, 1:] * y.to(windows)
    grid = torch.stack([across[:, None].expand(-1, height, -1), down[:, :, None].expand(-1, -1, width)], dim=3)
    source = images[image_index]
    seen = F.grid_sample(source.float(), grid.float() * 2 - 1, padding_mode="border", align_corners=False)
    return seen.to(source.dtype) if source.is_floating_point() else seen.round().to(source.dtype)
