"""Samples that cannot be used: skipped, counted, listed once each, and the end of a run that has too many of them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from pam_kit.errors import BrokenSample, PamKitError

FILE_NAME = "broken_samples.jsonl"
# Fewer samples than this say nothing about a dataset.
MIN_SEEN = 20
_SHOWN = 10


class TooManyBrokenSamples(PamKitError):
    """More samples of a dataset are broken than the recipe allows."""


class BrokenLedger:
    """Counts the samples of a run and lists the broken ones in ``folder``/broken_samples.jsonl.

    A file that is there already (a resumed run, a second split) is continued; no sample is listed twice in it.

    Args:
        folder: the run folder.
        max_share: the run ends when a larger share of the samples is broken; 0 allows none, 1 all.
        num_samples: the dataset's length. With it the end comes as soon as it is certain, in small datasets at once.
    """

    def __init__(self, folder: str | Path, max_share: float, num_samples: int | None = None):
        self.file = Path(folder) / FILE_NAME
        self.max_share, self.num_samples = max_share, num_samples
        self.seen = self.num_broken = 0
        self.listed: list[BrokenSample] = []
        self._known: set[tuple[str, str]] = set()

    def record(self, seen: int, broken: Sequence[BrokenSample]) -> None:
        """Count ``seen`` more samples, the ``broken`` ones among them.

        Raises:
            TooManyBrokenSamples: the share of broken samples is above ``max_share`` beyond doubt.
        """
        self.seen += seen
        self.num_broken += len(broken)
        fresh = [sample for sample in broken if self._is_fresh(sample)]
        if fresh:
            self.listed += fresh
            self._append(fresh)
        if self._too_many():
            raise TooManyBrokenSamples(self._accusation())

    def close(self) -> str:
        """One line for the end of the run: how many samples were seen, how many were broken, where they are listed."""
        if not self.num_broken:
            return f"{self.seen} samples read, none broken"
        share = self.num_broken / self.seen
        return f"{self.seen} samples read, {self.num_broken} of them broken and left out ({share:.2%}); see {self.file}"

    def _is_fresh(self, sample: BrokenSample) -> bool:
        key = (sample.source, sample.reason)
        fresh = key not in self._known
        self._known.add(key)
        return fresh

    def _append(self, fresh: list[BrokenSample]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        before = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        there = set(before.splitlines())
        lines = [json.dumps({"source": s.source, "reason": s.reason}, ensure_ascii=False) for s in fresh]
        with open(self.file, "a", encoding="utf-8") as file:
            # A run that was killed while it wrote leaves a line without an end.
            file.write("\n" if before and not before.endswith("\n") else "")
            file.writelines(f"{line}\n" for line in lines if line not in there)

    def _too_many(self) -> bool:
        sources = {source for source, _ in self._known}
        if self.num_samples is not None and len(sources) > self.max_share * self.num_samples:
            return True
        # A Poisson count rarely lies three standard deviations above its mean: one early broken sample of a large,
        # nearly sound dataset must not end the run.
        allowed = self.max_share * self.seen
        return self.seen >= MIN_SEEN and self.num_broken > allowed + 3 * math.sqrt(allowed)

    def _accusation(self) -> str:
        shown = [f"  {sample}" for sample in self.listed[:_SHOWN]]
        if len(self.listed) > _SHOWN:
            shown.append(f"  ... and {len(self.listed) - _SHOWN} more")
        return "\n".join(
            [
                f"{self.num_broken} of {self.seen} samples are broken ({self.num_broken / self.seen:.1%}); at most "
                f"{self.max_share:.1%} are allowed (data.max_broken_share). All are listed in {self.file}; mend or "
                "remove them, or allow more. The first are:",
                *shown,
            ]
        )
