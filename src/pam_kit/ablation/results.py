"""What a study has found so far: means over seeds, differences to the reference, sizes and times."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pam_kit.ablation.chains import Chain, Chains, run_folder, study_folder
from pam_kit.ablation.execution import failure_of, is_finished, scores_file
from pam_kit.ablation.statistics import Comparison, deviation, mean, paired, welch
from pam_kit.ablation.study import Study

TIMES = "step_times.json"
BySeed = dict[str, dict[int, float]]  # score -> seed -> percent


@dataclass(frozen=True)
class Cell:
    """A score of one variant, in percent: by seed, and compared with the reference (None for the reference itself)."""

    by_seed: dict[int, float]
    comparison: Comparison | None

    @property
    def mean(self) -> float:
        return mean(list(self.by_seed.values()))

    @property
    def deviation(self) -> float:
        """Over seeds; NaN of one."""
        return deviation(list(self.by_seed.values()))


@dataclass(frozen=True)
class Row:
    """One variant.

    Args:
        cells: by the name of the score; a score that no finished run has is left out.
        verdicts: by name, the score less its floor, paired by seed.
        errors: of the seeds that failed.
        missing: seeds that are not yet run.
        trained_parameters: of the last stage; None where all runs failed.
        positions: that a region takes in the decoder, its newlines included; of a clip's where there are clips.
        milliseconds: of a training step; None where it is not measured.
    """

    variant: str
    cells: dict[str, Cell]
    verdicts: dict[str, Comparison]
    errors: dict[int, str]
    missing: tuple[int, ...]
    trained_parameters: int | None
    positions: int | None
    milliseconds: float | None
    published: tuple[float | None, ...]


@dataclass(frozen=True)
class Results:
    """A row a variant, in the study's order.

    Args:
        how_timed: how the steps' times were taken.
        unknown: scores that the study names and the evaluation does not have; their cells stay empty.
    """

    study: Study
    rows: tuple[Row, ...]
    how_timed: str
    unknown: tuple[str, ...] = ()


def collect(chains: Chains, out: Path) -> Results:
    """What is there of a study's runs."""
    study = chains.study
    found = {
        variant.name: _scores(study, chains.of(variant.name), out)
        for variant in study.variants
        if chains.of(variant.name)
    }
    times = read_times(chains, out)
    rows = tuple(_row(chains, name, found, times, out) for name in found)
    how = f"median of {times['steps']} steps, all variants in turn, {times['device']}" if times else ""
    return Results(study, rows, how, tuple(unknown_scores(study, chains.chains, out)))


def unknown_scores(study: Study, chains: Sequence[Chain], out: Path) -> list[str]:
    """Scores of the study that evaluations of finished chains do not have, each with its place and what there is."""
    found: dict[str, None] = {}
    for chain in chains:
        table = _table(chain, out)
        if table is None:
            continue
        for score in study.scores:
            if score.row not in table:
                found[f"{score.place}: scores.{score.name}: there is no {score.row!r}, only {', '.join(table)}"] = None
            elif score.score not in table[score.row]:
                has = ", ".join(table[score.row])
                found[f"{score.place}: scores.{score.name}: {score.row} has no {score.score!r}; it has {has}"] = None
    return list(found)


def read_times(chains: Chains, out: Path) -> dict | None:
    """What ``step_times.measure`` has left for just these runs, or None."""
    file = study_folder(out, chains.study) / TIMES
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return found if found and found["runs"] == timed_runs(chains, out) else None


def timed_chains(chains: Chains, out: Path) -> dict[str, Chain]:
    """Variant -> its first finished chain."""
    found: dict[str, Chain] = {}
    for chain in chains.chains:
        if is_finished(chain.last, out):
            found.setdefault(chain.variant, chain)
    return found


def timed_runs(chains: Chains, out: Path) -> dict[str, str]:
    return {variant: chain.last.name for variant, chain in timed_chains(chains, out).items()}


def _scores(study: Study, chains: Sequence[Chain], out: Path) -> BySeed:
    """Of the finished chains."""
    found: BySeed = {score.name: {} for score in study.scores}
    for chain in chains:
        table = _table(chain, out) or {}
        for score in study.scores:
            if value := table.get(score.row, {}).get(score.score):
                found[score.name][chain.seed] = 100 * float(value["mean"])
    return found


def _table(chain: Chain, out: Path) -> dict | None:
    """The evaluation of a finished chain: row -> score -> mean and count."""
    if not is_finished(chain.last, out):
        return None
    file = scores_file(run_folder(out, chain.last), chain.evaluate)
    return json.loads(file.read_text(encoding="utf-8"))["table"]


def _row(chains: Chains, name: str, found: dict[str, BySeed], times: dict | None, out: Path) -> Row:
    study, own = chains.study, chains.of(name)
    errors = {chain.seed: error for chain in own if (error := failure_of(chain.last, out)) is not None}
    seeds = [chain.seed for chain in own if is_finished(chain.last, out)]
    reference = found.get(study.reference, {})
    cells = {
        score: Cell(by_seed, None if name == study.reference else _compared(study, by_seed, reference.get(score, {})))
        for score, by_seed in found[name].items()
        if by_seed
    }
    verdicts = {
        verdict.name: compared
        for verdict in study.verdicts
        if (compared := _paired(found[name][verdict.score], found[name][verdict.floor])) is not None
    }
    parameters, positions = (None, None) if len(errors) == len(own) else _sizes(own[0])
    return Row(
        name,
        cells,
        verdicts,
        errors,
        tuple(chain.seed for chain in own if chain.seed not in (*seeds, *errors)),
        parameters,
        positions,
        times["milliseconds"].get(name) if times else None,
        study.published.rows.get(name, ()),
    )


def _sizes(chain: Chain) -> tuple[int, int]:
    from pam_kit.training.plan import plan

    facts = plan(chain.last.recipe)
    return facts.trained_parameters, facts.positions


def _compared(study: Study, values: dict[int, float], reference: dict[int, float]) -> Comparison | None:
    if study.test == "welch":
        return welch(list(values.values()), list(reference.values())) if reference else None
    return _paired(values, reference)


def _paired(values: dict[int, float], reference: dict[int, float]) -> Comparison | None:
    both = [seed for seed in values if seed in reference]
    return paired([values[seed] for seed in both], [reference[seed] for seed in both]) if both else None
