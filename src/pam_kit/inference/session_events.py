"""What a session tells while it answers: masks first, then texts token by token, then each region as a whole."""

from dataclasses import dataclass
from typing import Any

from pam_kit.contracts import GeneratedText
from pam_kit.inference.result import RegionPrediction


@dataclass(frozen=True)
class MaskReady:
    """The mask of region number ``region``, counted from 0, which has no texts yet."""

    region: int
    prediction: RegionPrediction


@dataclass(frozen=True)
class TextGrows:
    """The next piece of an answer. ``hypothesis`` is its place in the prediction's hypotheses, where it is about one.

    The pieces of an answer put together are its text, but for space around it.
    """

    region: int
    task: str
    language: str
    piece: str
    hypothesis: int | None = None


@dataclass(frozen=True)
class TextReady:
    """A whole answer; it counts where pieces differ from it."""

    region: int
    task: str
    language: str
    answer: GeneratedText
    hypothesis: int | None = None


@dataclass(frozen=True)
class RegionReady:
    """All about a region; the last that is told of it. ``prediction.error`` says what went wrong, if anything did."""

    region: int
    prediction: RegionPrediction


SessionEvent = MaskReady | TextGrows | TextReady | RegionReady

_NAMES = {MaskReady: "mask", TextGrows: "text", TextReady: "answer", RegionReady: "region"}


def event_json(event: SessionEvent) -> dict[str, Any]:
    """Plain values that ``json.dumps`` takes: ``event`` is mask, text, answer or region, ``region`` counts from 1."""
    told: dict[str, Any] = {"event": _NAMES[type(event)], "region": event.region + 1}
    if isinstance(event, MaskReady | RegionReady):
        return told | event.prediction.to_json()
    told |= {"task": event.task, "language": event.language}
    if event.hypothesis is not None:
        told["hypothesis"] = event.hypothesis
    if isinstance(event, TextGrows):
        return told | {"piece": event.piece}
    return told | {"text": event.answer.text, "score": event.answer.score}
