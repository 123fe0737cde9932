"""Answers of the kit timed against the plain path, in turn, on the same machine with the same weights. Torch-free.

Each of the two paths has a process of its own; they get ready at the same time. First all works are timed, the paths
taking turns, so that they share whatever else the machine does; a ratio is the median of the ratios within the turns.
Then the works are done once more for their memory: the highest resident memory beyond what was held before, freed
memory being given back at once, which takes time and is why nothing is timed meanwhile.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from pam_kit.bench.comparison import Comparison, compare
from pam_kit.bench.step_benchmark import StepSizes, benchmark
from pam_kit.bench.workers import Told, Worker
from pam_kit.bench.works import STAGES, TRAINING, ModelChoice, Work

Row = dict[str, Any]
# Ahead of the works, so that no path is the first to do anything.
_WARM_UP_TOKENS = 2


@dataclass
class Result:
    """What was measured: facts of the machine and the model, and one row for each work.

    A row holds ``work``, ``seconds``, ``plain_seconds``, ``time_ratio`` (kit / plain), ``peak_mb``, ``plain_peak_mb``,
    ``memory_ratio`` (kit / plain) and ``same_output``; then, of the works of inference, ``times_faster`` (plain / kit),
    ``one_region_peak_mb`` (the kit's, of the same questions about one region), ``tokens_per_second`` (words said in a
    second of prefill and decode), ``stages_ms``, ``counts``, ``cpu_seconds`` and what is held besides, the plain path's
    as ``plain_...``. Without the plain path all of its values are null.
    """

    facts: Row
    rows: list[Row] = field(default_factory=list)

    @property
    def same(self) -> bool:
        return all(row["same_output"] is not False for row in self.rows)


class PathWorker(Worker):
    """A process with the model in its memory, which does works in one way; its ``facts`` are of the model and machine.

    Args:
        choice: the model.
        path: ``kit`` or ``plain``.
        device: where it computes; None leaves it to the process.
    """

    def __init__(self, choice: ModelChoice, path: str, device: str | None):
        job = {"model": asdict(choice), "path": path, "device": device}
        super().__init__(f"the {path} path", "pam_kit.bench.measured_inference", job)
        self._memory: dict[Work, Told] = {}

    def time(self, work: Work, outputs: str | None = None, with_roofline: bool = False) -> Told:
        """Do the work; -> seconds and what was done in them, see ``measured_inference.Timing``."""
        return self.ask(what="time", work=asdict(work), outputs=outputs, with_roofline=with_roofline)

    def memory(self, work: Work) -> Told:
        """Do the work; -> megabytes, see ``measured_inference.Memory``. Nothing is timed behind it.

        It is the same whenever it is taken, so the same work is done once.
        """
        if work not in self._memory:
            self._memory[work] = self.ask(what="memory", work=asdict(work))
        return self._memory[work]


def measure_works(
    choice: ModelChoice,
    works: Sequence[Work],
    against_plain: bool = True,
    repeats: int = 1,
    device: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Result:
    """Measure each work ``repeats`` times; ``say`` is told what is being done."""
    warm_up = Work(frames=min(works[0].frames, 2), max_new_tokens=_WARM_UP_TOKENS)
    with ExitStack() as workers, TemporaryDirectory(prefix="inference-benchmark-") as folder:
        say("building the model")
        kit = workers.enter_context(PathWorker(choice, "kit", device))
        plain = workers.enter_context(PathWorker(choice, "plain", device)) if against_plain else None
        paths = [kit, plain] if plain else [kit]
        facts, rows = [path.facts for path in paths][0], []  # no path works while another one still gets ready
        for path in paths:
            path.time(warm_up)  # the first pass fills caches and starts threads
        for work in works:
            say(f"timing {work.name}")
            rows.append(_timed(work, kit, plain, repeats, folder))
            say(_progress(rows[-1]))
        for work, row in zip(works, rows, strict=True):
            say(f"memory of {work.name}")
            row |= _memory(work, kit, plain)
        return Result(facts, [_in_order(row) for row in rows])


def measure_training(sizes: StepSizes, repeats: int = 1) -> Row:
    """One training step as a row; see ``step_benchmark``."""
    found = benchmark(sizes, repeats, with_kept=False)
    kit, plain, ratio = found["variants"]["kit"], found["variants"]["plain"], found["ratios"]["kit/plain"]
    return {
        "work": TRAINING.format(samples=sizes.images * sizes.regions * sizes.questions),
        "seconds": kit["seconds"],
        "plain_seconds": plain["seconds"],
        "time_ratio": ratio["seconds"],
        "peak_mb": kit["peak_bytes"] / 1e6,
        "plain_peak_mb": plain["peak_bytes"] / 1e6,
        "memory_ratio": ratio["peak_bytes"],
        "same_output": found["same_loss"] and found["same_gradients"],
        "cpu_seconds": kit["cpu_seconds"],
        "plain_cpu_seconds": plain["cpu_seconds"],
        "cpu_time_ratio": ratio["cpu_seconds"],
        "held_mb": kit["held_bytes"] / 1e6,
    }


def _timed(work: Work, kit: PathWorker, plain: PathWorker | None, repeats: int, folder: str) -> Row:
    """The paths take turns; the outcomes of the first turn are compared."""
    mine, others = [], []
    outcome: Comparison | None = None
    for turn in range(repeats):
        files = [str(Path(folder, f"{path}.npz")) if plain and turn == 0 else None for path in ("kit", "plain")]
        mine.append(kit.time(work, files[0], with_roofline=turn == 0))
        if plain:
            others.append(plain.time(work, files[1]))
            outcome = compare(files[0], files[1]) if files[0] and files[1] else outcome
    row: Row = {"work": work.name, "same_output": outcome.same if outcome else None}
    row |= _summary(mine, "") | _summary(others, "plain_")
    for name, key in (("time_ratio", "seconds"), ("cpu_time_ratio", "cpu_seconds")):
        row[name] = _ratio(mine, others, key)
    row["times_faster"] = 1 / row["time_ratio"] if others else None
    row["distinct_texts"] = outcome.distinct if outcome else None
    row["ties"] = outcome.ties if outcome else None
    row["different"] = (
        {"texts": outcome.texts, "pixels": outcome.pixels, "logits": outcome.logits, "scores": outcome.largest}
        if outcome
        else None
    )
    row["notes"], row["roofline"] = mine[0]["notes"], mine[0]["roofline"]
    return row


def _progress(row: Row) -> str:
    """What is known of a work before its memory is."""
    known = f"{row['work']}: {row['seconds']:.2f} s"
    if row["plain_seconds"] is None:
        return known
    return f"{known} against {row['plain_seconds']:.2f} s, {row['times_faster']:.2f} times as fast"


def _summary(runs: list[dict], prefix: str) -> Row:
    if not runs:
        return dict.fromkeys((f"{prefix}{key}" for key in _OF_A_PATH), None)
    stages = {name: median(run["stages_ms"][name] for run in runs) for name in STAGES}
    # The first word of an answer comes with the prefill.
    speaking = (stages["prefill"] + stages["decode"]) / 1000
    found = {
        "seconds": median(run["seconds"] for run in runs),
        "cpu_seconds": median(run["cpu_seconds"] for run in runs),
        "stages_ms": stages,
        "tokens": runs[0]["tokens"],
        "tokens_per_second": runs[0]["tokens"] / speaking if speaking else None,
        "counts": runs[0]["counts"],
    }
    return {f"{prefix}{key}": found[key] for key in _OF_A_PATH}


def _ratio(mine: list[dict], others: list[dict], key: str) -> float | None:
    return median(a[key] / b[key] for a, b in zip(mine, others, strict=True)) if others else None


def _memory(work: Work, kit: PathWorker, plain: PathWorker | None) -> Row:
    """Peaks in megabytes; that of the plain path is of one region, since it holds no more at a time."""
    found, one = kit.memory(work), work.of_one_region()
    alone = kit.memory(one)
    other = plain.memory(one) if plain else None
    return {
        "peak_mb": found["peak_mb"],
        "plain_peak_mb": other["peak_mb"] if other else None,
        # What is too small to be seen has no ratio.
        "memory_ratio": found["peak_mb"] / other["peak_mb"] if other and other["peak_mb"] > 0 else None,
        "one_region_peak_mb": alone["peak_mb"],
        "held_mb": found["held_mb"],
    }


def _in_order(row: Row) -> Row:
    return {key: row[key] for key in (*_FIRST, *(key for key in row if key not in _FIRST))}


_OF_A_PATH = ("seconds", "cpu_seconds", "stages_ms", "tokens", "tokens_per_second", "counts")
_FIRST = (
    "work",
    "seconds",
    "plain_seconds",
    "time_ratio",
    "peak_mb",
    "plain_peak_mb",
    "memory_ratio",
    "same_output",
    "times_faster",
    "one_region_peak_mb",
)
