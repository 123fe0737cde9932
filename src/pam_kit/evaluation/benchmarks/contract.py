"""What a benchmark says of itself, and how its regions are read. Torch-free, so that the command line can list it."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, overload

from pam_kit.errors import BrokenSample, PamKitError
from pam_kit.evaluation.benchmarks.missing import missing_data
from pam_kit.evaluation.records import RegionRecord
from pam_kit.registry import suggest
from pam_kit.tasks import clip_question, question

PROMPT_TYPES = ("box", "mask", "points")
# Frames of a video that are read; PAM's paper, section 5.
NUM_FRAMES = 16
# Broken entries that a note spells out; all of them are in ``RegionRecords.broken``.
_SHOWN = 3


@dataclass(frozen=True)
class Headline:
    """A number that the paper prints.

    Args:
        metric: its key in ``ProtocolScores.corpus``.
        protocol: which protocol it is taken from.
        table: of the PAM paper, 1 to 4.
        column: as it is headed there.
        scale: what the value is multiplied by where it is printed.
    """

    metric: str
    protocol: str
    table: int
    column: str
    scale: float = 100.0


@dataclass(frozen=True)
class Variant:
    """A published form of the annotations, or a way of reading them.

    Args:
        name: what chooses it.
        files: glob patterns below the benchmark's folder; something has to match each.
        what: what it holds and how it is read, in one line.
        page: where the files come from.
        prompt_types: what regions can be pointed at with.
        expected: how many regions it is published with; None where that is not known.
    """

    name: str
    files: tuple[str, ...]
    what: str
    page: str
    prompt_types: tuple[str, ...] = ("box",)
    expected: int | None = None


@dataclass
class Reading:
    """One reading of a benchmark, while it goes on.

    Args:
        root: the benchmark's folder.
        variant: what is read.
        prompt_type: box, mask or points.
        num_frames: how many frames of a video are read.
        broken: entries that cannot be used.
        counts: what a reader of the numbers has to know how often it happened.
        notes: what a reader of the numbers has to know besides.
    """

    root: Path
    variant: Variant
    prompt_type: str
    num_frames: int
    broken: list[BrokenSample] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def files(self, pattern: str) -> list[Path]:
        """What matches below the benchmark's folder, sorted."""
        return sorted(self.root.glob(pattern))


class RegionRecords(Sequence[RegionRecord]):
    """The regions of a benchmark in the order of its files, with what has to be known about them.

    Attributes:
        variant: the name of what was read.
        notes: counts, filters and what is decided here because it is not published; one line each.
        broken: entries that cannot be used, each with its file and place; they are not among the regions.
    """

    def __init__(self, records: Sequence[RegionRecord], reading: Reading):
        self._records = tuple(records)
        self.variant = reading.variant.name
        self.broken = tuple(reading.broken)
        self.notes = tuple(_all_notes(len(self._records), reading))

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> RegionRecord: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RegionRecord, ...]: ...
    def __getitem__(self, index):
        return self._records[index]


class Benchmark(ABC):
    """One of the published sets that PAM is measured on. A subclass names it and reads its files.

    Attributes:
        name: what chooses it.
        title: as people call it.
        variants: its published forms; where none is chosen, the first one whose files are there is read.
        media: where pictures, frames or videos are looked for below the benchmark's folder, in this order.
        media_page: where those come from.
        task: one of ``pam_kit.tasks.TASKS``, which also says in which words is asked.
        video: whether clips are asked about.
        streamed: whether the regions of a group are the events of one stream, in their order; ``meta["event"]`` counts
            them from 0. Each has its published prompt, whether or not the stream is pointed anew.
            A clip whose object is pointed at in several frames has them all in ``meta["prompts"]``: place among the
            record's frames, as a text -> prompt.
        languages: of its references.
        protocols: what it is scored by, the primary one first.
        headlines: what the paper prints of it.
        decisions: what is not published, and so was decided here.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    variants: ClassVar[tuple[Variant, ...]]
    media: ClassVar[tuple[str, ...]]
    media_page: ClassVar[str]
    task: ClassVar[str]
    video: ClassVar[bool] = False
    streamed: ClassVar[bool] = False
    languages: ClassVar[tuple[str, ...]] = ("en",)
    protocols: ClassVar[tuple[str, ...]]
    headlines: ClassVar[tuple[Headline, ...]]
    decisions: ClassVar[tuple[str, ...]] = ()

    @property
    def page(self) -> str:
        """Where the annotations of the first variant come from."""
        return self.variants[0].page

    @property
    def prompt_types(self) -> tuple[str, ...]:
        """What at least one variant can be pointed at with, in the order of ``PROMPT_TYPES``."""
        return tuple(kind for kind in PROMPT_TYPES if any(kind in v.prompt_types for v in self.variants))

    @property
    def question(self) -> str:
        """The words in which is asked about a region, unless a record has its own."""
        return clip_question(self.task, "en") if self.video else question(self.task, "en")

    def prepare_answer(self, text: str, references: Sequence[str] = ()) -> str:
        """A model's answer as the scorers take it; ``references`` are what is expected, where that matters."""
        return text.strip()

    def records(
        self, root: str | Path, prompt_type: str = "box", variant: str = "", num_frames: int = NUM_FRAMES
    ) -> RegionRecords:
        """The regions of the benchmark whose folder is ``root``.

        Args:
            root: where the files of one of the ``variants`` and the media lie; records name media relative to it.
            prompt_type: box, mask or points.
            variant: one of ``variants``; "": the first one whose files are there and that has such prompts.
            num_frames: how many frames of a video are read.

        Raises:
            PamKitError: for an unknown variant, prompts that the variant does not have, missing data (with the page
                that has them and where they go), a file that is none of the expected form, or when no entry of it
                can be used.
        """
        root = Path(root)
        if prompt_type not in PROMPT_TYPES:
            raise PamKitError(
                f"prompt type {prompt_type!r} is unknown{suggest(prompt_type, PROMPT_TYPES, 'choose of')}"
            )
        if num_frames < 1:
            raise PamKitError(f"num_frames is {num_frames}; expected 1 or more")
        reading = Reading(root, self.find_variant(root, prompt_type, variant), prompt_type, num_frames)
        found: dict[str, RegionRecord] = {}
        for source, make in self._regions(reading):
            try:
                record = make()
                if record and record.id in found:
                    raise BrokenSample(source, f"a second region with the id {record.id}")
            except BrokenSample as error:
                reading.broken.append(error)
            except PamKitError as error:
                reading.broken.append(BrokenSample(source, str(error)))
            else:
                found |= {record.id: record} if record else {}
        reading.notes += self.decisions
        if not found:
            shown = "; ".join(map(str, reading.broken[:_SHOWN])) or "its files list none"
            raise PamKitError(f"{self.name}: no region in {root} can be used: {shown}")
        return RegionRecords(list(found.values()), reading)

    @abstractmethod
    def _regions(self, reading: Reading) -> Iterator[tuple[str, Callable[[], RegionRecord | None]]]:
        """For every region where it stands, and what makes it: a record, None for one that a filter leaves out.

        What is made may raise BrokenSample or any PamKitError: it costs that region alone.
        """

    def find_variant(self, root: str | Path, prompt_type: str = "box", variant: str = "") -> Variant:
        """What ``records`` would read; raises PamKitError as it does."""
        root = Path(root)
        named = {v.name: v for v in self.variants}
        if variant and variant not in named:
            raise PamKitError(f"{self.name} has no variant {variant!r}{suggest(variant, named, 'its variants are')}")
        wanted = [named[variant]] if variant else [v for v in self.variants if prompt_type in v.prompt_types]
        if not wanted or prompt_type not in wanted[0].prompt_types:
            given = f"variant {variant} of {self.name}" if variant else self.name
            allowed = wanted[0].prompt_types if wanted else self.prompt_types
            raise PamKitError(f"{given} has no {prompt_type} prompts; choose of {', '.join(allowed)}")
        for candidate in wanted:
            if all(any(root.glob(pattern)) for pattern in candidate.files):
                return candidate
        raise PamKitError(missing_data(self.name, root, wanted, self.media, self.media_page))

    def _record(self, id: str, references: Sequence[str], **facts: Any) -> RegionRecord:
        """A record of this benchmark, asked in its words unless ``facts`` has others."""
        return RegionRecord(
            id=id,
            benchmark=self.name,
            question=facts.pop("question", self.question),
            references=tuple(references),
            task=facts.pop("task", self.task),
            **facts,
        )


def _all_notes(number: int, reading: Reading) -> Iterator[str]:
    expected = reading.variant.expected
    published = "" if expected in (None, number) else f"; it is published with {expected}, so this is a part of it"
    yield f"{number} regions, variant {reading.variant.name}, {reading.prompt_type} prompts{published}"
    if reading.broken:
        shown = "; ".join(map(str, reading.broken[:_SHOWN]))
        yield f"{len(reading.broken)} broken regions left out: {shown}{'; ...' if len(reading.broken) > _SHOWN else ''}"
    yield from (f"{count} {what}" for what, count in reading.counts.items())
    yield from reading.notes
