"""What a stream is told and what it tells: its settings, a report for every frame, descriptions of clips."""

from dataclasses import dataclass, field
from typing import Any

from pam_kit.contracts import GeneratedText, RegionPrompt
from pam_kit.errors import PamKitError
from pam_kit.inference.following import SeenRegion
from pam_kit.inference.presence import Transition
from pam_kit.inference.result import texts_json
from pam_kit.tasks import LANGUAGES, TASKS


@dataclass(frozen=True)
class StreamSettings:
    """How a stream is read and spoken about.

    The three switches of the paper's streaming (PAM, section 3.1) are ``carry``, ``history`` and ``memory``.

    Args:
        tasks: what is asked; a clip's own words are those of ``caption``.
        languages: in which languages.
        clip_frames: most frames of a clip that the decoder reads, a carried one and the newest one included.
        read_every: seconds between two frames that it reads; 0: every frame, as long as the clip has room.
        carry: the last frame of a clip opens the next one, at the density of a first frame.
        history: what was said of the clip before stands in the next question.
        memory: the backbone's memory lives on across clips; else every clip begins by pointing at the last mask's box,
            as the released code does.
        max_new_tokens: longest answer.
        frame_rate: frames a second of a stream that is pushed without times.
        lost_after: seconds out of sight after which an object counts as lost.
    """

    tasks: tuple[str, ...] = ("caption",)
    languages: tuple[str, ...] = ("en",)
    clip_frames: int = 16
    read_every: float = 0.5
    carry: bool = True
    history: bool = True
    memory: bool = True
    max_new_tokens: int = 64
    frame_rate: float = 30.0
    lost_after: float = 1.0

    def __post_init__(self):
        problems = []
        for name, known in (("tasks", TASKS), ("languages", LANGUAGES)):
            given = getattr(self, name)
            if not given or not set(given) <= set(known):
                problems.append(f"{name} are {list(given)}; give at least one of {', '.join(known)}")
        for name in ("clip_frames", "max_new_tokens"):
            if getattr(self, name) < 1:
                problems.append(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("read_every", "lost_after"):
            if not 0 <= getattr(self, name) < float("inf"):
                problems.append(f"{name} is {getattr(self, name)}; it must be a number of seconds, 0 or more")
        if not 0 < self.frame_rate < float("inf"):
            problems.append(f"frame_rate is {self.frame_rate}; it must be above 0")
        if problems:
            raise PamKitError("stream settings: " + "; ".join(problems))


@dataclass
class FrameReport:
    """What a pushed frame showed: by region number its mask, and what changed.

    ``pointed``: how regions were pointed at in it; ``read``: the regions whose tokens the decoder read;
    ``latency_ms``: milliseconds by stage.
    """

    index: int
    time: float
    regions: dict[int, SeenRegion] = field(default_factory=dict)
    transitions: dict[int, list[Transition]] = field(default_factory=dict)
    pointed: dict[int, RegionPrompt] = field(default_factory=dict)
    read: list[int] = field(default_factory=list)
    latency_ms: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``json.dumps`` takes; of each mask its area and box in pixels of the frame."""
        return {
            "event": "frame",
            "frame": self.index,
            "time": round(self.time, 4),
            "regions": [{"region": number} | _seen_json(seen) for number, seen in sorted(self.regions.items())],
            "read": self.read,
            "latency_ms": self.latency_ms,
        }


def _seen_json(seen: SeenRegion) -> dict[str, Any]:
    box = seen.box()
    scores = {"iou": round(seen.iou, 4), "object_score": round(seen.object_score, 4)}
    area = 0 if box is None else int(seen.mask().sum())
    return {"in_sight": seen.in_sight, "area": area, "box": None if box is None else list(box), **scores}


@dataclass
class StateChange:
    """Region ``region`` went out of sight, was lost or was found."""

    region: int
    change: Transition

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``json.dumps`` takes."""
        change = self.change.to_json()
        return {"event": "state", "region": self.region, **change, "time": round(self.change.time, 4)}


@dataclass
class Description:
    """What was said of region ``region`` from ``start`` to ``end``, in seconds.

    ``texts``: task -> language -> answer; none where the object was out of sight in all frames since ``start``, and
    where none came. ``state`` is that at the end: ``present``, ``occluded`` or ``lost``. ``reason``: what made the
    stream speak. ``latency_ms``: of this caption, by stage.
    """

    region: int
    start: float
    end: float
    state: str
    reason: str
    frames_read: int
    texts: dict[str, dict[str, GeneratedText]] = field(default_factory=dict)
    latency_ms: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``json.dumps`` takes."""
        return {
            "event": "caption",
            "region": self.region,
            "start": round(self.start, 4),
            "end": round(self.end, 4),
            "state": self.state,
            "reason": self.reason,
            "frames_read": self.frames_read,
            "texts": texts_json(self.texts),
            "latency_ms": self.latency_ms,
        }


StreamEvent = StateChange | Description
