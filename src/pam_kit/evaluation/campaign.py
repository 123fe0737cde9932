"""Several benchmarks for one model, or the predictions of somebody else: from the call to the reports.

Torch-free until a model or a metric needs it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pam_kit.errors import PamKitError
from pam_kit.evaluation.benchmark_run import BenchmarkRun, ChosenRegions, RunChoices, as_scored, save_predictions
from pam_kit.evaluation.benchmarks.registry import BENCHMARKS, find_benchmark
from pam_kit.evaluation.judging.asking import Judge
from pam_kit.evaluation.predictions.foreign import read_foreign
from pam_kit.evaluation.predictions.ledger import why_broken
from pam_kit.evaluation.predictions.run import Progress
from pam_kit.evaluation.provenance import describe_model
from pam_kit.evaluation.records import RegionRecord
from pam_kit.evaluation.reports.report import write_reports
from pam_kit.evaluation.reports.results import BenchmarkResult
from pam_kit.evaluation.reports.table import Table
from pam_kit.evaluation.scoring import check_protocols, score_protocols
from pam_kit.inference.shard import Shard

Say = Callable[[str], None]


class Campaign:
    """Some benchmarks for one model. What is wrong with the data is said when it is made, before a model is loaded.

    Args:
        checkpoint: a run folder or hub name.
        benchmarks: their names.
        choices: the same for all.
        overrides: changes to the recipe of the checkpoint.
        device: where to compute; the first accelerator by default.
        protocols: by which all are scored, in the place of their own.

    Raises:
        PamKitError: for an unknown benchmark or protocol, data that are missing, or predictions of another run in the
            way.
    """

    def __init__(
        self,
        checkpoint: str,
        benchmarks: Sequence[str],
        choices: RunChoices,
        overrides: Sequence[str] = (),
        device: str | None = None,
        protocols: Sequence[str] = (),
    ):
        check_protocols(protocols)
        self.checkpoint, self.overrides, self.device = checkpoint, tuple(overrides), device
        self.choices, self.protocols = choices, tuple(protocols)
        known = [find_benchmark(name) for name in dict.fromkeys(benchmarks)]
        model = describe_model(checkpoint, overrides)
        self.runs = [BenchmarkRun(benchmark, choices, model) for benchmark in known]

    def predict(self, shard: Shard, progress: Progress, say: Say) -> None:
        """What is missing of one part of every benchmark; the model is loaded once, where it is needed."""
        load = cache(self._load)
        for run in self.runs:
            for note in run.predict(load, shard, progress):
                say(f"{run.name}: {note}")

    def score(self, judge: Judge | None, shards: int, progress: Progress, say: Say) -> list[Table]:
        """Score what is complete, and report on all that is scored in the folder.

        Args:
            judge: for benchmarks that need one.
            shards: in how many parts predictions are made; of one part all have to be there, of several the process
                that ends last scores.

        Raises:
            PamKitError: predictions are missing, or a protocol could not be scored; the others are reported on first.
        """
        problems, scored = [], 0
        for run in self.runs:
            if shards > 1 and not run.is_complete():
                say(f"{run.name}: other parts are not done yet; the last one to end scores")
                continue
            with run.scoring() as mine:
                if not mine:
                    say(f"{run.name}: another process is scoring")
                    continue
                result = self._scored(run, run.collect(shards), judge, progress)
            scored += 1
            problems += [
                f"{run.name}: {protocol} could not be scored: {why}" for protocol, why in result.failed.items()
            ]
        tables = write_reports(self.choices.out) if scored else []
        if problems:
            raise PamKitError(
                "\n".join([*problems, f"the predictions are kept in {self.choices.out}; call again to score"])
            )
        return tables

    def _scored(
        self, run: BenchmarkRun, records: list[RegionRecord], judge: Judge | None, progress: Progress
    ) -> BenchmarkResult:
        protocols = self.protocols or run.benchmark.protocols
        prepared = as_scored(run.benchmark, records)
        return run.result(score_protocols(prepared, protocols, judge, run.root, progress), records)

    def _load(self) -> Any:
        from pam_kit.checkpoints import load_model
        from pam_kit.inference.predictor import RegionPredictor

        return RegionPredictor(load_model(self.checkpoint, self.overrides)[0], self.device)


@dataclass(frozen=True)
class ForeignChoices:
    """How predictions of somebody else are scored.

    Args:
        protocols: by which; none: those of the benchmark.
        benchmark: which they are of; "": as their records say.
        regions: of the benchmark, where ids, references and pictures come from, chosen as for a model; None: the file
            has all.
    """

    protocols: tuple[str, ...] = ()
    benchmark: str = ""
    regions: RunChoices | None = None


def score_foreign(
    path: Path, choices: ForeignChoices, out: Path, judge: Judge | None, progress: Progress = lambda items, **_: items
) -> list[Table]:
    """Score a file of predictions and report on it, and on whatever else is scored in ``out``.

    Raises:
        PamKitError: the file is of another form, nothing says by which protocol to score, or one gave no numbers.
    """
    benchmark = find_benchmark(choices.benchmark) if choices.benchmark else None
    check_protocols(choices.protocols)
    chosen = ChosenRegions(benchmark, choices.regions) if benchmark and choices.regions else None
    records, notes = read_foreign(path, *((chosen.records, chosen.read) if chosen else ()))
    benchmark = benchmark or _benchmark_of(records, path)
    protocols = choices.protocols or (benchmark.protocols if benchmark else ())
    if not protocols:
        raise PamKitError(f"{path.name} does not say what it is of: give --protocol, or --benchmark")
    prepared = as_scored(benchmark, records) if benchmark else records
    scored = score_protocols(prepared, protocols, judge, chosen.root if chosen else None, progress)
    result = BenchmarkResult(
        run=path.stem,
        benchmark=benchmark.name if benchmark else "",
        title=benchmark.title if benchmark else "",
        regions=len(records),
        broken=sum(why_broken(record) is not None for record in records),
        left_out=chosen.left_out if chosen else 0,
        about={"model": path.stem, "predictions": str(path)} | (_about(chosen) if chosen else {}),
        scores=scored.corpus,
        unjudged=scored.unjudged,
        failed=scored.failed,
        notes=(*notes, *(chosen.notes if chosen else ()), *scored.notes),
    )
    folder = out / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    save_predictions(folder, records)
    result.save(folder, scored.protocols)
    tables = write_reports(out)
    if scored.failed:
        raise PamKitError("\n".join(f"{name} could not be scored: {why}" for name, why in scored.failed.items()))
    return tables


def _about(chosen: ChosenRegions) -> dict[str, str]:
    """What of the benchmark the predictions are scored on."""
    return {
        "variant": chosen.read.variant,
        "prompt_type": chosen.choices.prompt_type,
        "root": str(chosen.root),
    }


def _benchmark_of(records: Sequence[RegionRecord], path: Path):
    names = {record.benchmark for record in records} - {""}
    if len(names) > 1:
        raise PamKitError(
            f"{path.name} holds regions of several benchmarks: {', '.join(sorted(names))}; score each alone"
        )
    return BENCHMARKS.get(*names) if names else None
