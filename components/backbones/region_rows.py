"""Regions of a memory by their numbers: which a prompt may point at, and features put into their order."""

from collections.abc import Sequence
from dataclasses import fields

import torch
import torch.nn.functional as F
from torch import Tensor

from pam_kit.contracts import ImageFeatures, PromptBatch, RegionFeatures
from pam_kit.errors import PamKitError


def check_pointed(features: ImageFeatures, prompts: PromptBatch, rows: Sequence[int], count: int) -> None:
    """Raise PamKitError unless ``rows`` numbers prompts into one frame, of a memory of ``count`` regions."""
    if len(features.embedding) != 1:
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


def of_regions(regions: RegionFeatures, rows: Sequence[int] | Tensor) -> RegionFeatures:
    """Some of the regions, in this order."""
    return RegionFeatures(**{field.name: getattr(regions, field.name)[rows] for field in fields(RegionFeatures)})


def joined(parts: Sequence[RegionFeatures], rows: Sequence[int]) -> RegionFeatures:
    """Regions that were decoded apart, in the order of their numbers; ``rows`` numbers those of all parts."""
    whole = parts[0] if len(parts) == 1 else _concatenated(parts)
    if list(rows) == list(range(len(rows))):
        return whole
    return of_regions(whole, torch.tensor(rows, device=whole.token_padding.device).argsort())


def _concatenated(parts: Sequence[RegionFeatures]) -> RegionFeatures:
    longest = max(part.all_tokens.shape[1] for part in parts)
    named = {f.name: [getattr(part, f.name) for part in parts] for f in fields(RegionFeatures)}
    missing = [longest - part.all_tokens.shape[1] for part in parts]
    named["all_tokens"] = [F.pad(t, (0, 0, 0, m)) for t, m in zip(named["all_tokens"], missing, strict=True)]
    named["token_padding"] = [
        F.pad(t, (0, m), value=True) for t, m in zip(named["token_padding"], missing, strict=True)
    ]
    return RegionFeatures(**{name: torch.cat(tensors) for name, tensors in named.items()})
