"""Predictions on the disk, one line each, as they are made; a run that was killed goes on behind the last whole line.

Torch-free.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from pam_kit.evaluation.records import RegionRecord
from pam_kit.inference.resuming import GrowingLines, whole_lines
from pam_kit.inference.shard import Shard

# Facts that a prediction leaves in its record: what was seen, and why there is none.
SEEN, BROKEN = "predicted", "broken"
# Where a benchmark points into several of the frames: place -> prompt.
PROMPTS = "prompts"


def broken(record: RegionRecord, why: str) -> RegionRecord:
    """The region without a prediction, with the reason."""
    return replace(record, prediction=None, meta={**record.meta, BROKEN: why})


def why_broken(record: RegionRecord) -> str | None:
    """Why there is no prediction of it, where that was tried."""
    return record.meta.get(BROKEN)


class PredictionFile:
    """The predictions of one part of a benchmark. A context manager; only one process at a time may write it.

    A line that was cut off, predictions of regions that have changed since, and regions that could not be read are
    dropped when it is opened, to be predicted anew.

    Attributes:
        done: region id -> its record with the prediction.
        notes: what was dropped.

    Raises:
        PamKitError: another process writes it, or a line that was not cut off is no record.
    """

    def __init__(self, folder: Path, shard: Shard, regions: Mapping[str, RegionRecord]):
        self.path = folder / shard.file_name
        self.regions, self.notes = regions, list[str]()
        self.done: dict[str, RegionRecord] = {}
        self._lines = GrowingLines(self.path)

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            opened.enter_context(self._lines)
            self._take_up()
            opened.pop_all()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lines.__exit__(kind, error, trace)

    def add(self, records: Iterable[RegionRecord]) -> None:
        """Write predictions behind the others; those that are there already are left out."""
        new = {record.id: record for record in records if record.id not in self.done}
        self._lines.append(record.to_json() for record in new.values())
        self.done |= new

    def _take_up(self) -> None:
        if not self.path.exists():
            return
        found, cut = read_lines(self.path)
        self.done, self.notes = usable(found, self.regions)
        self.notes += [f"{self.path.name}: {cut}"] if cut else []
        # Regions that are not asked about now, since a run is limited for example, keep their predictions.
        staying = [one for one in found if one.id not in self.regions or self.done.get(one.id) is one]
        if cut or len(staying) < len(found):
            self._lines.rewrite(record.to_json() for record in staying)


def read_lines(path: Path) -> tuple[list[RegionRecord], str]:
    """The records of a file to which a process may still write, or was killed writing, and what is wrong with its end.

    Raises PamKitError for any other line that is none.
    """
    lines, cut = whole_lines(path)
    return [RegionRecord.from_json(line, place) for place, line in lines], cut


def usable(
    found: Sequence[RegionRecord], regions: Mapping[str, RegionRecord]
) -> tuple[dict[str, RegionRecord], list[str]]:
    """Those of the predictions that are of these regions as they are now, by id, and notes on the others."""
    kept: dict[str, RegionRecord] = {}
    changed, failed = 0, 0
    for record in found:
        now = regions.get(record.id)
        if now is None:
            continue
        if _asked(now) != _asked(record):
            changed += 1
        elif record.prediction is None:
            failed += 1
        else:
            kept.setdefault(record.id, record)
    notes = [f"{changed} predictions are of regions that have changed since; they are made anew"] * bool(changed)
    return kept, notes + [f"{failed} regions that could not be read are tried again"] * bool(failed)


def _asked(record: RegionRecord) -> tuple:
    """All that a prediction depends on."""
    pointed = (record.prompt, record.meta.get(PROMPTS), record.frame_index, record.frames)
    return record.image, record.video, pointed, record.question, record.task, record.language
