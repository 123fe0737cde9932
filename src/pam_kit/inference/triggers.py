"""When a stream should speak by itself: at given times, or when its masks or its scene have changed. Torch-free.

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
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pam_kit.errors import PamKitError

State = dict[str, Any]  # flat: plain JSON values and NumPy arrays
_SLACK = 1e-6  # seconds: times are sums and quotients of floats
_SIDE = 32  # of the small pictures that scenes are compared by
_LEAST_CONTRAST = 8.0  # grey levels: less than that is noise, not a scene


@dataclass(frozen=True, eq=False)
class TriggerFrame:
    """What a trigger sees of a frame.

    Args:
        time: in seconds from the start of the stream.
        index: its number.
        image: (H, W, 3) uint8, RGB, or None where no trigger looks at pictures.
        masks: (R, h, w) boolean, of any one size; low resolution, such as (4h, 4w), is enough. R may be 0.
    """

    time: float
    index: int
    image: np.ndarray | None
    masks: np.ndarray


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
        """The stream has spoken at this frame, the last one that ``should_speak`` saw, for whatever reason."""

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
    """At the first frame that reaches a multiple of ``seconds``, not counting those up to the stream's first frame.

    Where frames leave out several multiples, it speaks once.
    """

    def __init__(self, seconds: float):
        if not (math.isfinite(seconds) and seconds > 0):
            raise PamKitError(f"cannot speak every {seconds} seconds; give a period above 0")
        self.seconds, self.description = float(seconds), f"every {_written(seconds)}"
        self._next: int | None = None  # the multiple that is waited for

    def should_speak(self, frame: TriggerFrame) -> str | None:
        if self._next is None:
            self._next = self._multiples(frame.time) + 1
        return self.description if self._is_due(frame.time) else None

    def spoken(self, frame: TriggerFrame) -> None:
        if self._next is not None and self._is_due(frame.time):
            self._next = max(self._next, self._multiples(frame.time)) + 1

    def _is_due(self, time: float) -> bool:
        return self._next is not None and time >= self._next * self.seconds - _SLACK

    def _multiples(self, time: float) -> int:
        return math.floor((time + _SLACK) / self.seconds)

    def _own_state(self) -> State:
        return {"next": self._next}

    def _become(self, state: State) -> None:
        self._next = state["next"]


class AtTrigger(Trigger):
    """At the first frame that reaches each of ``times``, in seconds; once for those that one frame reaches together."""

    def __init__(self, times: Sequence[float]):
        given = ", ".join(str(time) for time in times) or "none"
        if not len(times) or not all(math.isfinite(time) and time >= 0 for time in times):
            raise PamKitError(f"cannot speak at these times: {given}; give one or more, in seconds from 0 up")
        if any(later <= earlier for earlier, later in zip(times, times[1:], strict=False)):
            raise PamKitError(f"the times {given} are not in ascending order; sort them, each once")
        self.times = tuple(float(time) for time in times)
        self.description = self._reason(self.times)
        self._done = 0

    @property
    def remaining(self) -> tuple[float, ...]:
        """The times at which the stream has not spoken yet; not empty at its end where it was too short."""
        return self.times[self._done :]

    def should_speak(self, frame: TriggerFrame) -> str | None:
        due = self._due(frame.time)
        return self._reason(due) if due else None

    def spoken(self, frame: TriggerFrame) -> None:
        self._done += len(self._due(frame.time))

    def _due(self, time: float) -> tuple[float, ...]:
        return tuple(at for at in self.remaining if time >= at - _SLACK)

    @staticmethod
    def _reason(times: Sequence[float]) -> str:
        return "at " + ", ".join(_written(time) for time in times)

    def _own_state(self) -> State:
        return {"done": self._done}

    def _become(self, state: State) -> None:
        self._done = state["done"]


class MaskChangeTrigger(Trigger):
    """When the mask of a region is another than when the stream last spoke, and has been so for a while.

    A region that moved, grew, shrank, vanished or appeared has changed. Before the stream has spoken, a region is
    compared with the first frame in which it is there; where regions were dropped, all of them begin anew.

    Args:
        threshold: a mask has changed where its IoU with the former one is below 1 - threshold; two empty masks are
            alike. Between 0 and 1.
        settle: seconds for which some mask has to have changed without a break, so that a flickering mask is no reason.
    """

    def __init__(self, threshold: float = 0.5, settle: float = 0.5):
        if not 0 < threshold < 1:
            raise PamKitError(f"threshold {threshold} of the mask change is not between 0 and 1")
        if not (math.isfinite(settle) and settle >= 0):
            raise PamKitError(f"settle {settle} is no length of time; give seconds from 0 up")
        self.threshold, self.settle = threshold, settle
        self.description = f"mask change over {threshold:g} for {_written(settle)}"
        self._reference: np.ndarray | None = None  # (R, h, w)
        self._since: float | None = None  # when masks began to differ from it

    def should_speak(self, frame: TriggerFrame) -> str | None:
        reference = self._reference = self._known(frame.masks)
        if not (_ious(reference, frame.masks) < 1 - self.threshold).any():
            self._since = None
            return None
        self._since = float(frame.time) if self._since is None else self._since
        return "mask change" if frame.time - self._since >= self.settle - _SLACK else None

    def spoken(self, frame: TriggerFrame) -> None:
        self._reference, self._since = _checked(frame.masks).copy(), None

    def _known(self, masks: np.ndarray) -> np.ndarray:
        """What to compare ``masks`` with: the reference, for new regions the masks themselves."""
        masks, reference = _checked(masks), self._reference
        if reference is None or len(masks) < len(reference):
            return masks.copy()
        if masks.shape[1:] != reference.shape[1:]:
            raise PamKitError(f"masks of {masks.shape[1:]} follow masks of {reference.shape[1:]}; keep to one size")
        return np.concatenate([reference, masks[len(reference) :]]) if len(masks) > len(reference) else reference

    def _own_state(self) -> State:
        known = {} if self._reference is None else {"reference": self._reference.copy()}
        return {"since": self._since, **known}

    def _become(self, state: State) -> None:
        reference = state.get("reference")
        self._since, self._reference = state["since"], None if reference is None else np.array(reference, dtype=bool)


class SceneChangeTrigger(Trigger):
    """When the picture differs from the one before as after a cut.

    Compared are grey pictures of 32 x 32 pixels of equal mean and contrast: brightness that flickers, a camera that
    finds its exposure and small movements are no cut. Slow changes never are.

    Args:
        threshold: of the mean absolute difference, in units of the standard deviation of the grey values; two pictures
            that have nothing in common lie about 1 apart.
    """

    def __init__(self, threshold: float = 0.5):
        if not (math.isfinite(threshold) and threshold > 0):
            raise PamKitError(f"threshold {threshold} of the scene change is not above 0")
        self.threshold, self.description = threshold, f"scene change over {threshold:g}"
        self._previous: np.ndarray | None = None  # (32, 32) float32
        self._cut = False

    def should_speak(self, frame: TriggerFrame) -> str | None:
        picture = _small_picture(frame.image)
        if self._previous is not None and np.abs(picture - self._previous).mean() > self.threshold:
            self._cut = True
        self._previous = picture
        return "scene change" if self._cut else None

    def spoken(self, frame: TriggerFrame) -> None:
        self._cut = False

    def _own_state(self) -> State:
        known = {} if self._previous is None else {"previous": self._previous.copy()}
        return {"cut": self._cut, **known}

    def _become(self, state: State) -> None:
        previous = state.get("previous")
        self._cut, self._previous = state["cut"], None if previous is None else np.array(previous, dtype=np.float32)


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


def _written(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"


def _checked(masks: np.ndarray) -> np.ndarray:
    if not isinstance(masks, np.ndarray) or masks.ndim != 3 or masks.dtype != bool:
        given = f"{masks.shape} {masks.dtype}" if isinstance(masks, np.ndarray) else type(masks).__name__
        raise PamKitError(f"the masks of a frame must be a boolean (R, h, w) NumPy array, not {given}; threshold them")
    return masks


def _ious(former: np.ndarray, now: np.ndarray) -> np.ndarray:
    """(R,), of two (R, h, w) masks; 1 where both are empty."""
    union = (former | now).sum((1, 2))
    return np.where(union > 0, (former & now).sum((1, 2)) / np.maximum(union, 1), 1.0)


def _small_picture(image: np.ndarray | None) -> np.ndarray:
    """(H, W, 3) uint8 -> (32, 32) float32 of mean 0 and standard deviation 1, less where there is hardly contrast."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        given = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise PamKitError(
            f"a scene change is told by pictures, (H, W, 3) uint8, not {given}; give them with each frame"
        )
    small = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BOX).convert("L")
    grey = np.asarray(small, dtype=np.float32)
    return (grey - grey.mean()) / max(float(grey.std()), _LEAST_CONTRAST)
