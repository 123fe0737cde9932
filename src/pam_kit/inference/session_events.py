"""What a session tells while it answers: masks first, then texts token by token, then each region as a whole."""

from dataclasses import dataclass

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
