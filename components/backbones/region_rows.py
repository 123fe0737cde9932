"""Regions of a memory by their numbers: which a prompt may point at, and features put into their order."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pam_kit.contracts import ImageFeatures, PromptBatch, RegionFeatures
from pam_kit.errors import PamKitError


def check_pointed(
    features: ImageFeatures,
    prompts: PromptBatch,
    rows: Sequence[int],
    count: int,
    image_index: Tensor | None = None,
) -> None:
    """Raise PamKitError unless ``rows`` numbers prompts into the next frame, of a memory of ``count`` regions.

    ``image_index``: the frame of each region where there are several.
    """
    if len(features.embedding) != 1 and image_index is None:
        raise PamKitError(f"frames are followed one at a time, not {len(features.embedding)}; encode one frame")
    if len(prompts) != len(rows) or len(set(rows)) != len(rows):
        raise PamKitError(f"{len(prompts)} prompts for the regions {list(rows)}; give each prompt a region of its own")
    new = sorted(row for row in rows if row >= count)
    if new != list(range(count, count + len(new))) or any(row < 0 for row in rows):
        raise PamKitError(
            f"prompts for the regions {list(rows)} of a memory of {count}; known regions have the numbers below "
            f"{count}, and new ones go on from {count}"
        )


def check_kept(rows: Sequence[int], count: int) -> None:
    """Raise PamKitError unless ``rows`` are different regions of a memory of ``count``."""
    if len(set(rows)) != len(rows) or any(not 0 <= row < count for row in rows):
        raise PamKitError(f"cannot keep the regions {list(rows)} of a memory of {count}; name each region once")


def no_prompts(count: int, features: ImageFeatures) -> PromptBatch:
    """Prompts of ``count`` regions that say nothing, for a frame's mask decoder."""
    height, width = features.embedding.shape[-2:]
    device = features.embedding.device
    return PromptBatch(
        points=torch.zeros(count, 0, 2, device=device),
        labels=torch.zeros(count, 0, dtype=torch.long, device=device),
        masks=torch.zeros(count, 1, 4 * height, 4 * width, device=device),
        has_mask=torch.zeros(count, dtype=torch.bool, device=device),
    )


def joined(parts: Sequence[RegionFeatures], rows: Sequence[int]) -> RegionFeatures:
    """Regions that were decoded apart, in the order of their numbers; ``rows`` numbers those of all parts."""
    whole = parts[0] if len(parts) == 1 else RegionFeatures.joined(parts)
    if list(rows) == list(range(len(rows))):
        return whole
    return whole.of_rows(sorted(range(len(rows)), key=list(rows).__getitem__))
