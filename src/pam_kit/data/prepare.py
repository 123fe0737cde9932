"""From pictures and prompts to the tensors a model takes. Training, evaluation and prediction all come through here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pam_kit.contracts import (
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    PAD_POINT,
    ClipBatch,
    ClipSample,
    PromptBatch,
    Questions,
    RegionBatch,
    RegionPrompt,
    VisionBackbone,
)
from pam_kit.data.clips import sampled_frames


@dataclass(frozen=True)
class Geometry:
    """The sizes a backbone works at: pictures are S x S, masks ``mask_size`` = (4h, 4w)."""

    image_size: int
    mask_size: tuple[int, int]

    @classmethod
    def of(cls, backbone: VisionBackbone) -> "Geometry":
        return cls(backbone.image_size, (4 * backbone.grid[0], 4 * backbone.grid[1]))


@dataclass(frozen=True)
class Asked:
    """One question about a region, with its answer in training."""

    region: int
    task: str
    language: str
    question: str
    answer: str = ""


@dataclass
class PreparedImage:
    """One picture as tensors: ``image`` (3, S, S) uint8, per region its points, prompt mask and target mask."""

    image: Tensor
    points: list[np.ndarray]
    labels: list[np.ndarray]
    prompt_masks: list[np.ndarray | None]
    targets: list[np.ndarray | None]
    asked: list[Asked]


@dataclass
class PreparedClip:
    """A clip as tensors: ``frames`` (F, 3, S, S) uint8, which of them are read, and the first one prepared."""

    first: PreparedImage
    frames: Tensor
    read: list[int]


def prepare(
    image: np.ndarray,
    prompts: list[RegionPrompt],
    asked: list[Asked],
    geometry: Geometry,
    targets: list[np.ndarray | None] | None = None,
) -> PreparedImage:
    """Bring one (H, W, 3) uint8 picture, its prompts and target masks to the model's size.

    The aspect ratio is not kept, as in SAM 2. Raises PromptError for a prompt that does not fit the picture.
    """
    height, width = image.shape[:2]
    for prompt in prompts:
        prompt.check(width, height)
    size = geometry.image_size
    located = [_located(prompt, (width, height), size) for prompt in prompts]
    return PreparedImage(
        image=model_image(image, size),
        points=[points for points, _ in located],
        labels=[labels for _, labels in located],
        prompt_masks=[_coarse(prompt.mask, geometry.mask_size) for prompt in prompts],
        targets=[_coarse(mask, geometry.mask_size) for mask in targets or [None] * len(prompts)],
        asked=asked,
    )


def prompt_batch(
    prompts: Sequence[RegionPrompt], pictures: Sequence[tuple[int, int]], geometry: Geometry
) -> PromptBatch:
    """Prompts in pixels of pictures of these (W, H), one for each, as the model takes them; they have to fit."""
    located = [_located(prompt, size, geometry.image_size) for prompt, size in zip(prompts, pictures, strict=True)]
    points, labels = _stack_points([points for points, _ in located], [labels for _, labels in located])
    masks, has_mask = _stack_masks([_coarse(prompt.mask, geometry.mask_size) for prompt in prompts], geometry.mask_size)
    return PromptBatch(points, labels, masks, has_mask)


def tracked_frames(
    sample: ClipSample, wanted: int, tracking: Literal["read", "all"] = "read"
) -> tuple[list[np.ndarray], list[int]]:
    """The frames of a clip that its regions are tracked through, and which of these are read: at most ``wanted``.

    ``tracking``: through the frames that are read and those that lead up to them, or through ``all``.
    """
    read = [sample.lead + index for index in sampled_frames(len(sample.frames) - sample.lead, wanted)]
    tracked = list(range(len(sample.frames))) if tracking == "all" else [*range(sample.lead), *read]
    return [sample.frames[index] for index in tracked], [tracked.index(index) for index in read]


def prepare_clip(
    frames: Sequence[np.ndarray],
    read: list[int],
    prompts: list[RegionPrompt],
    asked: list[Asked],
    geometry: Geometry,
    targets: list[np.ndarray | None] | None = None,
) -> PreparedClip:
    """As ``prepare``, for F frames of one size; prompts and targets are of the first, ``read`` indexes frames."""
    first = prepare(frames[0], prompts, asked, geometry, targets)
    others = [model_image(frame, geometry.image_size) for frame in frames[1:]]
    return PreparedClip(first, torch.stack([first.image, *others]), read)


def model_image(image: np.ndarray, size: int) -> Tensor:
    """(H, W, 3) uint8 -> (3, S, S) uint8; bicubic, the aspect ratio is not kept."""
    if image.shape[:2] != (size, size):
        image = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def collate_clips(clips: Sequence[PreparedClip], geometry: Geometry) -> ClipBatch:
    """Join prepared clips into one batch; regions are numbered through."""
    batch = collate([clip.first for clip in clips], geometry)
    return ClipBatch(
        frames=[clip.frames for clip in clips],
        read=[clip.read for clip in clips],
        clip_index=batch.image_index,
        prompts=batch.prompts,
        questions=batch.questions,
        target_masks=batch.target_masks,
        has_target=batch.has_target,
    )


def collate(images: Sequence[PreparedImage], geometry: Geometry) -> RegionBatch:
    """Join prepared pictures into one batch; regions are numbered through."""
    counts = [len(item.points) for item in images]
    first = np.cumsum([0, *counts])
    asked = [(first[i] + one.region, one) for i, item in enumerate(images) for one in item.asked]
    masks, has_mask = _stack_masks([m for item in images for m in item.prompt_masks], geometry.mask_size)
    targets, has_target = _stack_masks([m for item in images for m in item.targets], geometry.mask_size)
    points, labels = _stack_points([p for i in images for p in i.points], [lab for i in images for lab in i.labels])
    return RegionBatch(
        images=torch.stack([item.image for item in images]),
        image_index=torch.repeat_interleave(torch.arange(len(images)), torch.tensor(counts)),
        prompts=PromptBatch(points, labels, masks, has_mask),
        questions=Questions(
            region_index=torch.tensor([int(region) for region, _ in asked], dtype=torch.long),
            questions=[one.question for _, one in asked],
            answers=[one.answer for _, one in asked],
            tasks=[one.task for _, one in asked],
            languages=[one.language for _, one in asked],
        ),
        target_masks=targets,
        has_target=has_target,
    )


def _located(prompt: RegionPrompt, picture: tuple[int, int], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (P, 2) in model pixels and their SAM labels (P,); a box is its two corners, ahead of the points."""
    points, labels = [], []
    if prompt.box is not None:
        points += [prompt.box[:2], prompt.box[2:]]
        labels += [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]
    points += list(prompt.points)
    labels += list(prompt.labels)
    # Shares of the picture first, then pixels of the model image, both in fp32, as SAM 2 does: the last digit counts.
    shares = np.asarray(points, dtype=np.float32).reshape(-1, 2) / np.asarray(picture, dtype=np.float32)
    return shares * np.float32(size), np.asarray(labels, dtype=np.int64)


def _coarse(mask: np.ndarray | None, size: tuple[int, int]) -> np.ndarray | None:
    """A (H, W) mask at the mask decoder's size: set where at least half of the cell is; never emptied."""
    if mask is None:
        return None
    # In floating point: in bytes, a pixel's share of a cell of more than 512 rounds to nothing.
    share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size[::-1], Image.Resampling.BOX))
    coarse = share >= 0.5
    return coarse if coarse.any() or not mask.any() else share == share.max()


def _stack_masks(masks: list[np.ndarray | None], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    stacked: np.ndarray = np.zeros((len(masks), 1, *size), dtype=np.float32)
    for row, mask in zip(stacked, masks, strict=True):
        if mask is not None:
            row[0] = mask
    return torch.from_numpy(stacked), torch.tensor([mask is not None for mask in masks], dtype=torch.bool)


def _stack_points(points: list[np.ndarray], labels: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    longest = max((len(p) for p in points), default=0)
    stacked: np.ndarray = np.zeros((len(points), longest, 2), dtype=np.float32)
    codes: np.ndarray = np.full((len(points), longest), PAD_POINT, dtype=np.int64)
    for i, (p, code) in enumerate(zip(points, labels, strict=True)):
        stacked[i, : len(p)], codes[i, : len(code)] = p, code
    return torch.from_numpy(stacked), torch.from_numpy(codes)
