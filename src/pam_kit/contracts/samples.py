"""What a dataset gives and a user points with: prompts, regions, pictures and clips."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pam_kit.errors import PromptError

PAD_POINT, NEGATIVE_POINT, POSITIVE_POINT, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = -1, 0, 1, 2, 3


@dataclass(frozen=True)
class RegionPrompt:
    """Where the user pointed, in pixels of the original picture. Box, points and mask may be combined.

    Args:
        box: (x1, y1, x2, y2).
        points: (x, y) each; ``labels`` says for each whether it lies inside (1) or outside (0) the object.
        mask: (H, W) boolean array of the picture's own size.
    """

    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    mask: np.ndarray | None = None

    @classmethod
    def whole_image(cls, width: int, height: int) -> "RegionPrompt":
        """The prompt that points at nothing in particular: a box around the whole picture."""
        return cls(box=(0.0, 0.0, float(width), float(height)))

    @classmethod
    def combined(cls, prompts: Sequence["RegionPrompt"]) -> "RegionPrompt":
        """All that several prompts say about one region; PromptError for a second box or mask."""
        boxes = [one.box for one in prompts if one.box is not None]
        masks = [one.mask for one in prompts if one.mask is not None]
        if len(boxes) > 1 or len(masks) > 1:
            raise PromptError(
                f"one region has at most one box and one mask; it got {len(boxes)} boxes and {len(masks)} masks"
            )
        return cls(
            box=boxes[0] if boxes else None,
            points=tuple(point for one in prompts for point in one.points),
            labels=tuple(label for one in prompts for label in one.labels),
            mask=masks[0] if masks else None,
        )

    def check(self, width: int, height: int) -> None:
        """Raise PromptError unless the prompt points at something inside a ``width`` x ``height`` picture."""
        if self.box is None and not self.points and self.mask is None:
            raise PromptError("the prompt is empty; give a box, a point or a mask")
        if self.box is not None:
            x1, y1, x2, y2 = self.box
            if not all(np.isfinite(self.box)) or not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
                raise PromptError(
                    f"box {tuple(self.box)} does not fit a picture of {width}x{height} pixels; "
                    f"expected x1,y1,x2,y2 with 0 <= x1 < x2 <= {width} and 0 <= y1 < y2 <= {height}"
                )
        if len(self.points) != len(self.labels):
            raise PromptError(f"{len(self.points)} points but {len(self.labels)} labels; every point needs one, 1 or 0")
        for (x, y), label in zip(self.points, self.labels, strict=True):
            if not (0 <= x <= width and 0 <= y <= height):
                raise PromptError(f"point ({x}, {y}) lies outside a picture of {width}x{height} pixels")
            if label not in (NEGATIVE_POINT, POSITIVE_POINT):
                raise PromptError(f"point label {label!r} is neither 1 (inside the object) nor 0 (outside it)")
        if self.points and POSITIVE_POINT not in self.labels and self.box is None and self.mask is None:
            raise PromptError("only negative points: they say where the object is not; add a positive point or a box")
        if self.mask is not None:
            if self.mask.shape != (height, width):
                raise PromptError(
                    f"the mask is {self.mask.shape[1]}x{self.mask.shape[0]} pixels, the picture {width}x{height}; "
                    "they must have the same size"
                )
            if not self.mask.any():
                raise PromptError("the mask is empty: none of its pixels is set")


@dataclass
class Region:
    """One object of a picture and what is known about it.

    Args:
        id: unique within its sample.
        prompt: how the object is pointed at; None lets the prompt be drawn from the mask or its box.
        mask: (H, W) boolean array, or None where only texts are known.
        texts: task -> language -> text, for example ``{"recognize": {"en": "cup", "zh": "杯子"}}``.
        attributes: facts that evaluation reads, for example ``{"colour": "red"}``; never seen by the model.
    """

    id: str
    prompt: RegionPrompt | None = None
    mask: np.ndarray | None = None
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass
class RegionSample:
    """A picture and the regions in it, as a dataset gives it.

    Args:
        source: where it comes from, for error messages, for example ``train.jsonl:17``.
        image: (H, W, 3) uint8, RGB.
    """

    source: str
    image: np.ndarray
    regions: list[Region]


@dataclass
class ClipSample:
    """A clip and the regions in it, as a dataset gives it; the regions are pointed at in its first frame.

    Args:
        source: where it comes from, for error messages.
        frames: (H, W, 3) uint8, RGB, all of one size; they may be read when they are looked at.
        regions: their masks, where known, are those of the first frame.
        history: what was said about the part of the video before this clip, by language; empty at its start.
        lead: so many frames at the start are followed through but not read: the regions are pointed at in the first of
            them, since they are out of sight where the clip itself begins.
    """

    source: str
    frames: Sequence[np.ndarray]
    regions: list[Region]
    history: dict[str, str] = field(default_factory=dict)
    lead: int = 0


@dataclass
class Event:
    """What a region of a video does from frame ``first`` to frame ``last``, both included, and what is said of it.

    Args:
        texts: task -> language -> text, as of a Region.
        attributes: facts that evaluation reads, for example ``{"event": "turns", "colour": "blue"}``.
    """

    first: int
    last: int
    texts: dict[str, dict[str, str]]
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass
class VideoRegion:
    """One object of a video.

    Args:
        id: unique within its video.
        frame: in which it is pointed at.
        prompt: how; None lets the prompt be drawn from the mask of that frame.
        masks: (H, W) boolean array a frame, nothing set where the object is out of sight; empty where unknown.
        events: in the order of time.
    """

    id: str
    frame: int = 0
    prompt: RegionPrompt | None = None
    masks: Sequence[np.ndarray] = ()
    events: list[Event] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass
class VideoSample:
    """A whole video and what its regions do, as a dataset for streaming gives it.

    Args:
        source: where it comes from, for error messages.
        frames: (H, W, 3) uint8, RGB, all of one size; they may be read when they are looked at.
        frame_rate: frames a second.
    """

    source: str
    frames: Sequence[np.ndarray]
    frame_rate: float
    regions: list[VideoRegion]
