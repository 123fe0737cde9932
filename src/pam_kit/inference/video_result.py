"""What the model says about regions of a video: a mask for every frame, when each was out of sight, and the texts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pam_kit.contracts import GeneratedText, RegionPrompt
from pam_kit.data.masks import decode_rle, encode_rle
from pam_kit.errors import PromptError
from pam_kit.geometry import tight_box
from pam_kit.inference.following import SeenRegion
from pam_kit.inference.presence import Transition, in_sight, out_of_sight
from pam_kit.inference.result import prompt_json, texts_json


@dataclass(frozen=True)
class FramePrompt:
    """Where the user pointed in a video: ``prompt`` in frame number ``frame``, at the object ``region``.

    Prompts of the same region say more about the same object, in the same frame or in another one.
    """

    region: int
    frame: int
    prompt: RegionPrompt


def prompts_by_frame(prompts: Sequence[FramePrompt], width: int, height: int) -> dict[int, dict[int, RegionPrompt]]:
    """Frame -> region -> all that is said about it there as one prompt; frames and regions in ascending order.

    Raises PromptError where a region has two boxes or two masks in a frame, or a prompt does not fit frames of this
    size in pixels.
    """
    places = sorted({(one.frame, one.region) for one in prompts})
    found: dict[int, dict[int, RegionPrompt]] = {}
    for frame, region in places:
        here = [one.prompt for one in prompts if (one.frame, one.region) == (frame, region)]
        try:
            combined = RegionPrompt.combined(here)
            combined.check(width=width, height=height)
        except PromptError as error:
            raise PromptError(f"region {region}, pointed at in frame {frame}: {error}") from None
        found.setdefault(frame, {})[region] = combined
    return found


@dataclass(frozen=True)
class RegionFrame:
    """A region in one frame: its mask as COCO's compressed run-length encoding, None where it is empty.

    A frame in which the region is pointed at may have a mask though the object is not in sight by its score.
    """

    index: int
    time: float
    segmentation: dict[str, Any] | None
    iou: float
    object_score: float
    area: int
    box: tuple[float, float, float, float] | None

    @classmethod
    def of(cls, seen: SeenRegion, index: int, time: float) -> "RegionFrame":
        mask = seen.mask()
        box = tight_box(mask)
        return cls(
            index=index,
            time=time,
            segmentation=None if box is None else encode_rle(mask),
            iou=seen.iou,
            object_score=seen.object_score,
            area=int(mask.sum()),
            box=box,
        )

    @property
    def in_sight(self) -> bool:
        """Whether the object is seen: by its score, and by a mask that is not empty."""
        return in_sight(self.object_score, self.area)

    def mask(self, size: tuple[int, int]) -> np.ndarray:
        """(H, W) boolean mask in a frame of ``size`` = (H, W)."""
        if self.segmentation is None:
            return np.zeros(size, dtype=bool)
        return decode_rle(self.segmentation)

    def to_json(self) -> dict[str, Any]:
        return {
            "frame": self.index,
            "time": round(self.time, 4),
            "in_sight": self.in_sight,
            "segmentation": self.segmentation,
            "area": self.area,
            "box": None if self.box is None else list(self.box),
            "iou": self.iou,
            "object_score": self.object_score,
        }


@dataclass
class VideoRegionPrediction:
    """One region of a video.

    Args:
        region: its number.
        prompts: how it was pointed at.
        frames: one for every frame of the video, in order of time.
        transitions: when it went out of sight, was lost and was found again.
        read_frames: the frames whose tokens the decoder read, in the order in which it did, the prompted one first.
        texts: task -> language -> answer; none of an object that was in sight in no frame.
    """

    region: int
    prompts: list[FramePrompt]
    frames: list[RegionFrame]
    transitions: list[Transition] = field(default_factory=list)
    read_frames: list[int] = field(default_factory=list)
    texts: dict[str, dict[str, GeneratedText]] = field(default_factory=dict)

    @property
    def ever_seen(self) -> bool:
        """Whether the object was in sight in any frame."""
        return any(frame.in_sight for frame in self.frames)

    def to_json(self) -> dict[str, Any]:
        end = self.frames[-1].time if self.frames else 0.0
        return {
            "region": self.region,
            "prompts": [{"frame": one.frame, **prompt_json(one.prompt)} for one in self.prompts],
            "ever_seen": self.ever_seen,
            "transitions": [transition.to_json() for transition in self.transitions],
            "out_of_sight": [list(interval) for interval in out_of_sight(self.transitions, end)],
            "read_frames": self.read_frames,
            "texts": texts_json(self.texts),
            "frames": [frame.to_json() for frame in self.frames],
        }


@dataclass
class VideoPrediction:
    """A video of W x H pixels and the regions that were followed through it.

    ``damage`` says where the file broke off, if it did; ``latency`` is stage -> count, mean, p50, p95 in milliseconds.
    """

    source: str
    width: int
    height: int
    frame_rate: float | None
    num_frames: int
    regions: list[VideoRegionPrediction]
    damage: str | None = None
    latency: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``json.dumps`` takes."""
        return {
            "video": self.source,
            "width": self.width,
            "height": self.height,
            "frame_rate": self.frame_rate,
            "num_frames": self.num_frames,
            "damage": self.damage,
            "regions": [region.to_json() for region in self.regions],
            "latency_ms": self.latency,
        }
