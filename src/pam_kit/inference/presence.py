"""Whether a followed region is in sight: present, occluded, lost, found. Torch-free, and of constant size."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pam_kit.errors import PamKitError

PRESENT, OCCLUDED, LOST, FOUND = "present", "occluded", "lost", "found"
SEEN_FROM = 0.5  # the least probability of an object that counts as seen
_SLACK = 1e-6  # seconds: times are sums of floats


def in_sight(object_score: float, area: int, threshold: float = SEEN_FROM) -> bool:
    """Whether a region is seen in a frame: an object is there, as the model knows it, and its mask has an area.

    The one of them does not do: a backbone may draw a mask where it is pointed at though it sees no object.
    """
    return object_score >= threshold and area > 0


@dataclass(frozen=True)
class Transition:
    """From this frame on the region is in another state.

    Args:
        state: ``present`` where it is seen for the first time, ``found`` where it is seen again, ``occluded`` where it
            goes out of sight, ``lost`` where it has been so for long, or is not in sight from the start on.
        time: of that frame, in seconds.
        frame: its number.
        never_seen: the region is lost without having been seen before.
    """

    state: str
    time: float
    frame: int
    never_seen: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values; ``never_seen`` only where it is true."""
        values = asdict(self)
        return values if self.never_seen else {name: values[name] for name in ("state", "time", "frame")}


@dataclass
class _Memory:
    """All that a tracker knows of the frames before: plain values, so that it is its own stored form.

    ``run`` counts the frames, up to the last one, in which the region looked other than ``status`` has it; the run
    began at ``run_time`` and ``run_frame``. ``hidden_since`` is when it went out of sight.
    """

    frame: int
    time: float | None = None
    status: str | None = None
    never_seen: bool = False
    hidden_since: float = 0.0
    run: int = 0
    run_time: float = 0.0
    run_frame: int = 0


class PresenceTracker:
    """Follows one region from frame to frame and says when it goes out of sight and comes back.

    It is seen in a frame where it is ``in_sight``. In the first frame it is ``present`` where it is seen; where not, it
    is ``lost`` with ``never_seen``, until it is ``present``. From then on::

        present --unseen--> occluded --unseen for lost_after--> lost
           ^------ found ------'-------------- found -----------'

    ``found`` is an event: the region is present again.

    Args:
        lost_after: seconds out of sight after which an occluded region is lost.
        confirm: frames in a row that it takes to change between seen and unseen; the change is dated to the first of
            them. The first frame of all counts at once.
        threshold: the least probability of an object that counts as seen.
        first_frame: number of the first frame.
    """

    def __init__(self, lost_after: float = 1.0, confirm: int = 1, threshold: float = SEEN_FROM, first_frame: int = 0):
        if not (math.isfinite(lost_after) and lost_after >= 0):
            raise PamKitError(f"lost_after {lost_after} is no length of time; give seconds from 0 up")
        if confirm < 1:
            raise PamKitError(f"confirm {confirm} is no number of frames; give 1 or more")
        if not 0 <= threshold <= 1:
            raise PamKitError(f"threshold {threshold} is no probability; give one in [0, 1]")
        self.lost_after, self.confirm, self.threshold = lost_after, confirm, threshold
        self._memory = _Memory(first_frame)

    @property
    def status(self) -> str | None:
        """``present``, ``occluded`` or ``lost``; None before the first frame."""
        return self._memory.status

    @property
    def never_seen(self) -> bool:
        """Whether there were frames and the region was seen in none of them."""
        return self._memory.never_seen

    def update(self, object_score: float, area: int, time: float) -> list[Transition]:
        """The next frame -> the changes that are now certain, in the order of time; most frames have none.

        Args:
            object_score: probability that the object is there, in [0, 1].
            area: of its mask, in pixels; 0 where it is absent.
            time: of the frame, in seconds.

        Raises:
            PamKitError: a score that is no probability, a negative area, or a time before that of the frame before.
        """
        self._check(object_score, area, time)
        memory, seen = self._memory, in_sight(object_score, area, self.threshold)
        changes = self._begin(seen, time) if memory.status is None else self._go_on(seen, time)
        memory.time, memory.frame = float(time), memory.frame + 1
        return changes

    def state(self) -> dict[str, Any]:
        """Plain values from which ``from_state`` makes a tracker that goes on exactly like this one."""
        arguments = {name: getattr(self, name) for name in ("lost_after", "confirm", "threshold")}
        return arguments | asdict(self._memory)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "PresenceTracker":
        """The tracker that ``state`` was taken from. Raises PamKitError where ``state`` is not one of a tracker."""
        names = {"lost_after", "confirm", "threshold"} | {field.name for field in fields(_Memory)}
        if names != set(state):
            raise PamKitError(
                f"not the state of a PresenceTracker: it has the keys {', '.join(sorted(state)) or 'none'}; "
                f"expected {', '.join(sorted(names))}; save it anew with this version"
            )
        tracker = cls(state["lost_after"], state["confirm"], state["threshold"])
        tracker._memory = _Memory(**{field.name: state[field.name] for field in fields(_Memory)})
        return tracker

    def _begin(self, seen: bool, time: float) -> list[Transition]:
        memory = self._memory
        memory.status, memory.never_seen, memory.hidden_since = PRESENT if seen else LOST, not seen, float(time)
        return [Transition(memory.status, float(time), memory.frame, memory.never_seen)]

    def _go_on(self, seen: bool, time: float) -> list[Transition]:
        memory, changes = self._memory, []
        if seen == (memory.status == PRESENT):
            memory.run = 0
        else:
            if memory.run == 0:
                memory.run_time, memory.run_frame = float(time), memory.frame
            memory.run += 1
            if memory.run >= self.confirm:
                changes.append(self._change(seen))
        # A frame in which it may be coming back never loses it: what is lost was unseen to the last.
        if not seen and memory.status == OCCLUDED and time - memory.hidden_since >= self.lost_after - _SLACK:
            memory.status = LOST
            changes.append(Transition(LOST, float(time), memory.frame))
        return changes

    def _change(self, seen: bool) -> Transition:
        memory = self._memory
        if seen:
            state = PRESENT if memory.never_seen else FOUND
            memory.status, memory.never_seen = PRESENT, False
        else:
            state = memory.status = OCCLUDED
            memory.hidden_since = memory.run_time
        memory.run = 0
        return Transition(state, memory.run_time, memory.run_frame)

    def _check(self, object_score: float, area: int, time: float) -> None:
        place = f"frame {self._memory.frame}"
        if not 0 <= object_score <= 1:
            raise PamKitError(f"{place}: object score {object_score} is no probability; take the sigmoid of a logit")
        if area < 0:
            raise PamKitError(f"{place}: a mask cannot have {area} pixels; give 0 where the object is absent")
        if not math.isfinite(time) or (self._memory.time is not None and time < self._memory.time):
            raise PamKitError(
                f"{place}: its time {time} s does not follow {self._memory.time} s, that of the frame before; "
                "give frames in the order of time"
            )


def out_of_sight(transitions: Iterable[Transition], end: float) -> list[list[float]]:
    """The intervals [start, end], in seconds, in which a region was out of sight, occluded and lost alike.

    Args:
        transitions: all of one region, as ``PresenceTracker.update`` returned them.
        end: of the video, in seconds: where an interval ends in which the region did not come back.

    Raises PamKitError where ``end`` lies before a transition.
    """
    intervals: list[list[float]] = []
    start = None
    for change in transitions:
        if change.time > end:
            raise PamKitError(f"the video ends at {end} s, but the region is {change.state} at {change.time} s")
        if change.state in (OCCLUDED, LOST):
            start = change.time if start is None else start
        elif start is not None:
            intervals.append([start, change.time])
            start = None
    return intervals if start is None else [*intervals, [start, float(end)]]
