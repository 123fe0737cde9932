"""Boxes and points drawn as a mask prompt: a spatial hint that shortens the time a new mask decoder takes to learn."""

from dataclasses import replace

import torch
from torch import Tensor

from pam_kit.contracts import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE_POINT, POSITIVE_POINT, PromptBatch

# Standard deviation of a point's blob, as a share of the picture's side.
POINT_SIGMA = 0.04


def draw_prompts(prompts: PromptBatch, image_size: int) -> PromptBatch:
    """The same prompts, each with a mask: its own, or the box filled and the positive points as Gaussian blobs.

    Negative points take their blobs away again. ``masks`` (R, 1, H, W) come back with values in [0, 1].
    """
    height, width = prompts.masks.shape[-2:]
    ys = _centres(height, image_size, prompts.points)[None, None, :, None]
    xs = _centres(width, image_size, prompts.points)[None, None, None, :]
    drawn = torch.maximum(_boxes(prompts, ys, xs), _blobs(prompts, POSITIVE_POINT, ys, xs, image_size))
    drawn = drawn * (1 - _blobs(prompts, NEGATIVE_POINT, ys, xs, image_size))
    masks = torch.where(prompts.has_mask[:, None, None, None], prompts.masks, drawn)
    return replace(prompts, masks=masks, has_mask=torch.ones_like(prompts.has_mask))


def _centres(cells: int, image_size: int, like: Tensor) -> Tensor:
    return (torch.arange(cells, device=like.device, dtype=like.dtype) + 0.5) * (image_size / cells)


def _boxes(prompts: PromptBatch, ys: Tensor, xs: Tensor) -> Tensor:
    """(R, 1, H, W): 1 within the box; nothing where the prompt has none."""
    low, high = _corner(prompts, BOX_TOP_LEFT), _corner(prompts, BOX_BOTTOM_RIGHT)
    x1, y1, x2, y2 = (value[:, None, None, None] for value in (low[:, 0], low[:, 1], high[:, 0], high[:, 1]))
    inside = (xs >= x1) & (xs <= x2) & (ys >= y1) & (ys <= y2)
    has_box = (prompts.labels == BOX_TOP_LEFT).any(dim=1)[:, None, None, None]
    return (inside & has_box).to(prompts.points.dtype)


def _corner(prompts: PromptBatch, label: int) -> Tensor:
    """(R, 2): the corner, zero where the prompt has no box."""
    return (prompts.points * (prompts.labels == label)[..., None]).sum(dim=1)


def _blobs(prompts: PromptBatch, label: int, ys: Tensor, xs: Tensor, image_size: int) -> Tensor:
    """(R, 1, H, W): the largest of the blobs around the points of one kind."""
    x, y = (prompts.points[:, :, axis, None, None] for axis in (0, 1))
    squared = ((xs - x) ** 2 + (ys - y) ** 2) / (POINT_SIGMA * image_size) ** 2
    blobs = torch.exp(-0.5 * squared) * (prompts.labels == label)[..., None, None]
    none = blobs.new_zeros(len(prompts), 1, *blobs.shape[2:])
    return torch.cat([none, blobs], dim=1).amax(dim=1, keepdim=True)
