"""Predictions on the disk, one line each, as they are made; a run that was killed goes on behind the last whole line.

Torch-free.
"""

import fcntl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from pam_kit.atomic_files import whole_file
from pam_kit.errors import PamKitError
from pam_kit.evaluation.predictions.units import Shard
from pam_kit.evaluation.records import RegionRecord

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
        self.path = folder / f"part_{shard.number}_of_{shard.count}.jsonl"
        self.regions, self.notes = regions, []
        self.done: dict[str, RegionRecord] = {}

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path.with_suffix(".lock"), "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise PamKitError(
                f"another process is writing {self.path}; give each process a part of its own (--shard 1/2 and 2/2), "
                "or wait for it"
            ) from None
        try:
            self._take_up()
            self._file = open(self.path, "a", encoding="utf-8")
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        self._lock.close()

    def add(self, records: Iterable[RegionRecord]) -> None:
        """Write predictions behind the others; those that are there already are left out."""
        for record in records:
            if record.id not in self.done:
                print(record.to_json(), file=self._file)
                self.done[record.id] = record
        self._file.flush()

    def _take_up(self) -> None:
        if not self.path.exists():
            return
        found, cut = read_lines(self.path)
        self.done, self.notes = usable(found, self.regions)
        self.notes += [f"{self.path.name}: {cut}"] if cut else []
        if cut or len(self.done) < len(found):
            with whole_file(self.path) as file:
                file.writelines(f"{record.to_json()}\n".encode() for record in self.done.values())


def read_lines(path: Path) -> tuple[list[RegionRecord], str]:
    """The records of a file to which a process may still write, or was killed writing, and what is wrong with its end.

    Raises PamKitError for any other line that is none.
    """
    *lines, end = path.read_bytes().split(b"\n")
    whole = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    records = [RegionRecord.from_json(_text(line, f"{path}:{number}"), f"{path}:{number}") for number, line in whole]
    return records, f"its last line was cut off after {len(end)} bytes and is made anew" if end else ""


def usable(
    found: Sequence[RegionRecord], regions: Mapping[str, RegionRecord]
) -> tuple[dict[str, RegionRecord], list[str]]:
    """Those of the predictions that are of these regions as they are now, by id, and notes on the others."""
    kept: dict[str, RegionRecord] = {}
    changed, failed = 0, 0
    for record in found:
        now = regions.get(record.id)
        if now is None or _asked(now) != _asked(record):
            changed += 1
        elif record.prediction is None:
            failed += 1
        else:
            kept.setdefault(record.id, record)
    notes = [f"{changed} predictions are of regions that are not asked about in this way now; left out"] * bool(changed)
    return kept, notes + [f"{failed} regions that could not be read are tried again"] * bool(failed)


def _asked(record: RegionRecord) -> tuple:
    """All that a prediction depends on."""
    pointed = (record.prompt, record.meta.get(PROMPTS), record.frame_index, record.frames)
    return record.image, record.video, pointed, record.question, record.task, record.language


def _text(line: bytes, source: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PamKitError(f"{source}: not UTF-8: {error}") from None
