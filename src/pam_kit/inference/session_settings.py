"""How much a session does at once, and what it has done."""

from dataclasses import dataclass, replace
from typing import get_args

from pam_kit.contracts import Steps
from pam_kit.errors import PamKitError


@dataclass(frozen=True)
class SessionSettings:
    """How much a session does at once, which bounds the memory that it takes.

    Args:
        picture_batch: pictures that are encoded together.
        region_batch: regions whose masks are made together, and that the decoder reads together.
        answer_batch: answers that are made together.
        kept_regions: regions whose keys and values stay in memory once they have been asked about, those that were
            asked about last; they are not read again.
        steps: how the decoder makes its steps, see ``Decoder.start_reading``: ``growing`` keys and values, buffers of
            ``fixed`` size, or those with a ``compiled`` step. The first is the fastest where few answers are long or
            numbers of regions and questions change; compiling pays where the same numbers are asked all the time.
    """

    picture_batch: int = 8
    region_batch: int = 4
    answer_batch: int = 32
    kept_regions: int = 8
    steps: Steps = "growing"

    def __post_init__(self):
        least = {"picture_batch": 1, "region_batch": 1, "answer_batch": 1, "kept_regions": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise PamKitError(f"{name} is {getattr(self, name)}; it is at least {smallest}")
        if self.steps not in get_args(Steps):
            raise PamKitError(f"steps is {self.steps!r}; it is one of {', '.join(get_args(Steps))}")


class Bounds:
    """The settings as they are now: where memory was not enough, less is done at once than was wished for.

    Attributes:
        now: the settings.
        notes: what a user should know.
    """

    def __init__(self, settings: SessionSettings):
        self.now, self.notes = settings, list[str]()

    def halve(self, name: str, count: int, what: str) -> str:
        """``count`` were too many for the setting ``name``; -> the note that says so."""
        half = (count + 1) // 2
        self.now = replace(self.now, **{name: min(half, getattr(self.now, name))})
        return self.note(f"memory was not enough for {count} {what}; at most {half} from then on ({name})")

    def note(self, text: str) -> str:
        """Note something once."""
        if text not in self.notes:
            self.notes.append(text)
        return text


@dataclass
class Work:
    """What a session has computed so far: what makes it fast is that these numbers are small.

    Args:
        pictures: pictures encoded.
        regions: regions segmented.
        views: masks perceived: one for each region, or for each of its hypotheses.
        prefix_positions: positions that the language model has read of regions, the words ahead of them included.
        positions: positions that went through the language model in all.
        vocabulary_rows: positions of which the logits of all words were made.
    """

    pictures: int = 0
    regions: int = 0
    views: int = 0
    prefix_positions: int = 0
    positions: int = 0
    vocabulary_rows: int = 0
