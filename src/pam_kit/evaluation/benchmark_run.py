"""A model on a published benchmark: predictions, which can be stopped, gone on with and divided, then scores.

A run has a folder of its own: ``part_*.jsonl`` while predictions are made; ``predictions.jsonl``, ``scores.json`` and
``items.jsonl`` when they are scored. Torch-free until a model is needed.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pam_kit.atomic_files import locked, whole_file
from pam_kit.errors import PamKitError
from pam_kit.evaluation.benchmarks.contract import Benchmark, RegionRecords
from pam_kit.evaluation.predictions.ledger import why_broken
from pam_kit.evaluation.predictions.merging import check_complete, merged, predicted
from pam_kit.evaluation.predictions.run import Progress, predict_missing
from pam_kit.evaluation.predictions.settings import PredictionSettings
from pam_kit.evaluation.predictions.units import Unit, cut_units
from pam_kit.evaluation.records import RegionRecord
from pam_kit.evaluation.reports.results import BenchmarkResult
from pam_kit.evaluation.scoring import Scored
from pam_kit.inference.resuming import check_same_run
from pam_kit.inference.shard import Shard

SETTINGS, PREDICTIONS, LOCK = "settings.json", "predictions.jsonl", "scores.lock"


@dataclass(frozen=True)
class RunChoices:
    """What of a benchmark is asked, and where everything lies.

    Args:
        data: holds the benchmark's folder, or is it.
        out: gets a folder for each run.
        prompt_type: box, mask or points; one number never mixes them.
        variant: of the benchmark's files; "" takes the first one that is there.
        languages: only regions of these; none: all.
        limit: only so many regions, the first ones; no number for a table.
        asked: how the model is asked.
    """

    data: Path
    out: Path
    prompt_type: str = "box"
    variant: str = ""
    languages: tuple[str, ...] = ()
    limit: int | None = None
    asked: PredictionSettings = PredictionSettings()


class ChosenRegions:
    """The regions of a benchmark that are asked about, or that predictions of somebody else are scored on.

    Attributes:
        root: the benchmark's folder.
        read: all of its regions.
        records: those that are chosen.
        left_out: how many entries of the benchmark's files could not be used.

    Raises:
        PamKitError: the data are not there or not as expected, or no region is in the languages that are chosen.
    """

    def __init__(self, benchmark: Benchmark, choices: RunChoices):
        self.choices = choices
        self.root = benchmark_root(benchmark, choices)
        self.read = benchmark.records(self.root, choices.prompt_type, choices.variant, choices.asked.num_frames)
        self.records = _chosen(benchmark, self.read, choices)
        self.left_out = len(self.read.broken)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was read, after what is not a number to compare."""
        if len(self.records) == len(self.read):
            return self.read.notes
        those = f", those in {', '.join(self.choices.languages)}" if self.choices.languages else ""
        told = f"only {len(self.records)} of {len(self.read)} regions{those}: not a number to compare"
        return (told, *self.read.notes)


class BenchmarkRun:
    """One benchmark under one kind of prompt.

    Args:
        benchmark: which.
        choices: what of it.
        model: facts on the model, see ``describe_model``.

    Raises:
        PamKitError: the benchmark's data are not there or not as expected, or the folder holds predictions that were
            made by another model or asked for in another way.
    """

    def __init__(self, benchmark: Benchmark, choices: RunChoices, model: Mapping[str, Any]):
        self.benchmark, self.choices, self.model = benchmark, choices, model
        self.regions = ChosenRegions(benchmark, choices)
        self.root, self.read, self.records = self.regions.root, self.regions.read, self.regions.records
        stream = [choices.asked.stream_boxes] * (benchmark.streamed and choices.asked.stream_boxes != "propagate")
        self.name = "-".join([benchmark.name, self.read.variant, choices.prompt_type, *stream])
        self.folder = choices.out / self.name
        self._check_folder()

    @cached_property
    def units(self) -> list[Unit]:
        """The regions as they are predicted."""
        asked = self.choices.asked
        return cut_units(self.records, asked.pictures, asked.regions, self.benchmark.streamed)

    def predict(
        self, load: Callable[[], Any], shard: Shard, progress: Progress = lambda items, **_: items
    ) -> list[str]:
        """Make what is missing of one part; ``load`` gives the RegionPredictor and is called where it is needed."""
        return predict_missing(load, self.root, self.folder, self.units, shard, self.choices.asked, progress)

    def collect(self, shards: int = 1) -> list[RegionRecord]:
        """All regions with their predictions, in the benchmark's order; also written as ``predictions.jsonl``.

        Raises PamKitError that names the parts that are missing, or where not a single region could be read.
        """
        found = predicted(self.folder, self.records)
        check_complete(self.units, found, shards, self.folder)
        whole = merged(self.records, found)
        failed = [record for record in whole if why_broken(record)]
        if len(failed) == len(whole):
            raise PamKitError(
                f"{self.name}: not one of {len(whole)} regions could be read; the first one: {why_broken(failed[0])}. "
                f"Look at {self.root}"
            )
        save_predictions(self.folder, whole)
        return whole

    def is_complete(self) -> bool:
        """Whether all parts are there."""
        found = predicted(self.folder, self.records)
        return all(record.id in found for record in self.records)

    def result(self, scored: Scored, records: list[RegionRecord]) -> BenchmarkResult:
        """What is reported, written into the run's folder."""
        broken = sum(why_broken(record) is not None for record in records)
        result = BenchmarkResult(
            run=self.name,
            benchmark=self.benchmark.name,
            title=self.benchmark.title,
            regions=len(records),
            broken=broken,
            left_out=self.regions.left_out,
            about=dict(self.model) | self._asked() | {"root": str(self.root)},
            scores=scored.corpus,
            unjudged=scored.unjudged,
            failed=scored.failed,
            notes=(*self.regions.notes, *scored.notes),
        )
        result.save(self.folder, scored.protocols)
        return result

    @contextmanager
    def scoring(self) -> Iterator[bool]:
        """Whether this process is the one to score; of several that end together only one is."""
        with locked(self.folder / LOCK) or nullcontext() as lock:
            yield lock is not None

    def _asked(self) -> dict[str, Any]:
        """All that the texts depend on besides the model."""
        asked = self.choices.asked
        generation = {"decoding": "greedy", "max_new_tokens": asked.max_new_tokens}
        if self.benchmark.video:
            generation["num_frames"] = asked.num_frames
        if self.benchmark.streamed:
            generation["stream_boxes"] = asked.stream_boxes
        asking = {
            "variant": self.read.variant,
            "prompt_type": self.choices.prompt_type,
            "question": self.benchmark.question,
        }
        return {**asking, "generation": generation}

    def _check_folder(self) -> None:
        """Predictions of another model, or asked for in another way, are never gone on with."""
        check_same_run(self.folder / SETTINGS, {"model": dict(self.model), **self._asked()})


def benchmark_root(benchmark: Benchmark, choices: RunChoices) -> Path:
    """``data/<name>`` where that is there, or else ``data`` where it has the benchmark's files itself."""
    below = choices.data / benchmark.name
    if not choices.data.is_dir():
        raise PamKitError(
            f"--data {choices.data}: no such folder; it should hold {benchmark.name}/ with the benchmark's files"
        )
    if below.is_dir():
        return below
    try:
        benchmark.find_variant(choices.data, choices.prompt_type, choices.variant)
    except PamKitError:
        return below  # reading it says what is missing
    return choices.data


def save_predictions(folder: Path, records: list[RegionRecord]) -> None:
    """``predictions.jsonl``, whole or not at all."""
    with whole_file(folder / PREDICTIONS, unique=True) as file:
        file.writelines(f"{record.to_json()}\n".encode() for record in records)


def as_scored(benchmark: Benchmark, records: list[RegionRecord]) -> list[RegionRecord]:
    """The regions with their answers as the benchmark's scorers take them; the raw ones stay in the files."""
    return [record if record.prediction is None else _prepared(benchmark, record) for record in records]


def _prepared(benchmark: Benchmark, record: RegionRecord) -> RegionRecord:
    return record.with_prediction(benchmark.prepare_answer(record.answer, record.references))


def _chosen(benchmark: Benchmark, read: RegionRecords, choices: RunChoices) -> list[RegionRecord]:
    if twice := [id for id, count in Counter(record.id for record in read).items() if count > 1]:
        raise PamKitError(f"{benchmark.name}: two of its regions have the id {twice[0]!r}")
    found = [record for record in read if not choices.languages or record.language in choices.languages]
    if not found:
        raise PamKitError(
            f"{benchmark.name} has no region in {', '.join(choices.languages)}; its languages are "
            f"{', '.join(benchmark.languages)}"
        )
    if choices.limit is None:
        return found
    if not benchmark.streamed:
        return found[: choices.limit]
    # Whole streams: an event without those before it is another question.
    groups = {record.group for record in found[: choices.limit]}
    return [record for record in found if record.group in groups]
