"""When a stream should speak by itself: here at given times, in ``change_triggers`` at changes. Torch-free.

A trigger sees every frame once, in the order of time, and gives its reason from the frame on in which it has one,
until it is told that the stream has spoken::

    reason = trigger.should_speak(frame)
    if reason is not None:
        ...  # speak
        trigger.spoken(frame)

It keeps a number, a mask a region or one small picture, however long the stream.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pam_kit.errors import PamKitError

State = dict[str, Any]  # flat: plain JSON values and NumPy arrays
SLACK = 1e-6  # seconds: times are sums and quotients of floats


@dataclass(frozen=True, eq=False)
class TriggerFrame:
    """What a trigger sees of a frame.

    Args:
        time: in seconds from the start of the stream.
        index: its number.
        image: (H, W, 3) uint8, RGB, or None where no trigger looks at pictures.
        masks: (R, h, w) boolean, of any one size; low resolution, such as (4h, 4w), is enough.
        regions: the number of each; none where no region is followed.
    """

    time: float
    index: int
    image: np.ndarray | None
    masks: np.ndarray
    regions: tuple[int, ...]

    def of(self, regions: Sequence[int]) -> "TriggerFrame":
        """The same of some regions only."""
        rows = [row for row, number in enumerate(self.regions) if number in regions]
        return replace(self, masks=self.masks[rows], regions=tuple(self.regions[row] for row in rows))


class Trigger(ABC):
    """Something that makes a stream speak.

    Attributes:
        description: what it is and its arguments, in one line.
    """

    description: str

    @abstractmethod
    def should_speak(self, frame: TriggerFrame) -> str | None:
        """The reason to speak at this frame, such as ``every 2s``, or None."""

    @abstractmethod
    def spoken(self, frame: TriggerFrame) -> None:
        """The stream has spoken of the regions of ``frame``, the last one that ``should_speak`` saw, for whatever
        reason; of some of them, or of all."""

    def passed(self, frame: TriggerFrame) -> None:
        """There was nothing to speak of at this frame, the last one that ``should_speak`` saw: its reason is void."""
        self.spoken(frame)

    @abstractmethod
    def _own_state(self) -> State: ...

    @abstractmethod
    def _become(self, state: State) -> None: ...

    def state(self) -> State:
        """A flat dictionary of plain JSON values and NumPy arrays, from which ``restore`` makes it go on."""
        return {"trigger": self.description, **self._own_state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as the trigger that ``state`` was taken from. Raises PamKitError where that had other arguments."""
        if state.get("trigger") != self.description:
            raise PamKitError(
                f"this is the state of the trigger {state.get('trigger')!r}, not of {self.description!r}; "
                "restore a stream with the arguments it was made with"
            )
        self._become({name: value for name, value in state.items() if name != "trigger"})


class EveryTrigger(Trigger):
    """At the first frame that reaches a multiple of ``seconds``, not counting those up to the first frame of a region.

    Where frames leave out several multiples, it speaks once.
    """

    def __init__(self, seconds: float):
        if not (math.isfinite(seconds) and seconds > 0):
            raise PamKitError(f"cannot speak every {seconds} seconds; give a period above 0")
        self.seconds, self.description = float(seconds), f"every {written(seconds)}"
        self._next: int | None = None  # the multiple that is waited for

    def should_speak(self, frame: TriggerFrame) -> str | None:
        if not frame.regions:
            self._next = None
        elif self._next is None:
            self._next = self._multiples(frame.time) + 1
        return self.description if self._is_due(frame.time) else None

    def spoken(self, frame: TriggerFrame) -> None:
        if self._next is not None and self._is_due(frame.time):
            self._next = max(self._next, self._multiples(frame.time)) + 1

    def _is_due(self, time: float) -> bool:
        return self._next is not None and time >= self._next * self.seconds - SLACK

    def _multiples(self, time: float) -> int:
        return math.floor((time + SLACK) / self.seconds)

    def _own_state(self) -> State:
        return {"next": self._next}

    def _become(self, state: State) -> None:
        self._next = state["next"]


class AtTrigger(Trigger):
    """At the first frame that reaches each of ``times``, in seconds; once for those that one frame reaches together.

    Attributes:
        missed: the times at which there was nothing to speak of, since it was made; they are no part of its state.
    """

    def __init__(self, times: Sequence[float]):
        given = ", ".join(str(time) for time in times) or "none"
        if not len(times) or not all(math.isfinite(time) and time >= 0 for time in times):
            raise PamKitError(f"cannot speak at these times: {given}; give one or more, in seconds from 0 up")
        if any(later <= earlier for earlier, later in zip(times, times[1:], strict=False)):
            raise PamKitError(f"the times {given} are not in ascending order; sort them, each once")
        self.times = tuple(float(time) for time in times)
        self.description = self._reason(self.times)
        self._done = 0
        self.missed: list[float] = []

    @property
    def remaining(self) -> tuple[float, ...]:
        """The times that did not come yet; not empty at the stream's end where it was too short."""
        return self.times[self._done :]

    def should_speak(self, frame: TriggerFrame) -> str | None:
        due = self._due(frame.time)
        return self._reason(due) if due else None

    def spoken(self, frame: TriggerFrame) -> None:
        self._done += len(self._due(frame.time))

    def passed(self, frame: TriggerFrame) -> None:
        self.missed += self._due(frame.time)
        self.spoken(frame)

    def _due(self, time: float) -> tuple[float, ...]:
        return tuple(at for at in self.remaining if time >= at - SLACK)

    @staticmethod
    def _reason(times: Sequence[float]) -> str:
        return "at " + ", ".join(written(time) for time in times)

    def _own_state(self) -> State:
        return {"done": self._done}

    def _become(self, state: State) -> None:
        self._done = state["done"]


class AnyTrigger(Trigger):
    """When any of ``triggers`` has a reason; all of their reasons, joined by commas. Of no trigger, never."""

    def __init__(self, triggers: Sequence[Trigger]):
        self.triggers = list(triggers)
        self.description = "any of: " + "; ".join(trigger.description for trigger in self.triggers)

    def should_speak(self, frame: TriggerFrame) -> str | None:
        reasons = [trigger.should_speak(frame) for trigger in self.triggers]
        return ", ".join(reason for reason in reasons if reason is not None) or None

    def spoken(self, frame: TriggerFrame) -> None:
        for trigger in self.triggers:
            trigger.spoken(frame)

    def passed(self, frame: TriggerFrame) -> None:
        for trigger in self.triggers:
            trigger.passed(frame)

    def _own_state(self) -> State:
        states = [trigger.state() for trigger in self.triggers]
        return {f"{i}.{name}": value for i, state in enumerate(states) for name, value in state.items()}

    def _become(self, state: State) -> None:
        for i, trigger in enumerate(self.triggers):
            start = f"{i}."
            trigger.restore({n.removeprefix(start): value for n, value in state.items() if n.startswith(start)})


def parse_seconds(text: str) -> float:
    """A length of time or a time as it is typed, ``2s``, ``500ms`` or ``3.5``, in seconds, 0 or more."""
    number, scale = text.strip(), 1.0
    for unit, unit_scale in (("ms", 1e-3), ("s", 1.0)):
        if number.endswith(unit):
            number, scale = number.removesuffix(unit), unit_scale
            break
    try:
        seconds = float(number) * scale
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise PamKitError(f"{text!r} is no time; expected seconds as in 2s, 500ms or 3.5, from 0 up")
    return seconds


def written(seconds: float) -> str:
    """A time as ``parse_seconds`` takes it, such as 0.5s."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"
