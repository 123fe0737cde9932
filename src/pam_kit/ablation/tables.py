"""The results of a study as Markdown, CSV and JSON, and as a picture."""

import csv
import io
import json
import math
from pathlib import Path

from pam_kit.ablation.bar_chart import Bar, Group, draw_bars
from pam_kit.ablation.results import Cell, Results, Row
from pam_kit.ablation.statistics import LEVEL, Comparison
from pam_kit.atomic_files import write_text

TABLE, CSV, JSON, CHART = "table.md", "table.csv", "results.json", "chart.png"


def write_tables(results: Results, folder: Path) -> None:
    """``table.md``, ``table.csv``, ``results.json`` and, where there are scores to draw, ``chart.png``."""
    write_text(folder / TABLE, "\n".join([f"# {results.study.title}", "", *markdown(results), ""]))
    write_text(folder / CSV, _csv(results))
    write_text(folder / JSON, json.dumps(_json(results), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    draw(results, folder / CHART)


def draw(results: Results, path: Path) -> bool:
    """The study's ``plot`` columns as bars, standard deviations as whiskers; False where there is nothing to draw."""
    groups = []
    for row in results.rows:
        bars = [
            Bar(row.cells[score].mean, _finite(row.cells[score].deviation) or 0.0) if score in row.cells else None
            for score in results.study.plot
        ]
        groups.append(Group(row.variant, bars))
    if not any(bar for group in groups for bar in group.bars):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_bars(path, results.study.title, results.study.plot, groups, "%, mean over seeds; whiskers: standard deviation")
    return True


def markdown(results: Results) -> list[str]:
    """The table, what its figures are, and the errors of runs that failed, as lines."""
    study = results.study
    published = [f"paper: {column}" for column in study.published.columns]
    head = ["variant", *(score.name for score in study.scores), *(verdict.name for verdict in study.verdicts)]
    head += ["positions a region", "learned parameters"]
    head += ["ms a step"] if results.how_timed else []
    lines = ["| " + " | ".join([*head, *published]) + " |", "| --- |" + " ---: |" * (len(head) + len(published) - 1)]
    lines += ["| " + " | ".join(_markdown_row(results, row)) + " |" for row in results.rows]
    return [*lines, "", *_legend(results), *_complaints(results)]


def _markdown_row(results: Results, row: Row) -> list[str]:
    study = results.study
    name = f"**{row.variant}**" if row.variant == study.reference else row.variant
    floors = {verdict.floor for verdict in study.verdicts}
    cells = [_shown(row.cells.get(score.name), score.name in floors) for score in study.scores]
    cells += [_answered(row.verdicts.get(verdict.name)) for verdict in study.verdicts]
    times = [_number(row.milliseconds)] if results.how_timed else []
    known = row.published or (None,) * len(study.published.columns)
    sizes = ["" if size is None else f"{size:,}" for size in (row.positions, row.trained_parameters)]
    return [name, *cells, *sizes, *times, *map(_figure, known)]


def _shown(cell: Cell | None, is_floor: bool) -> str:
    """A floor is what verdicts compare with; nobody asks how it differs from the reference's."""
    if cell is None:
        return ""
    text = f"{cell.mean:.1f}" + ("" if math.isnan(cell.deviation) else f" ± {cell.deviation:.1f}")
    if cell.comparison is None or is_floor:
        return text
    return f"{text} ({cell.comparison.difference:+.1f}; {cell.comparison.statement})"


def _answered(compared: Comparison | None) -> str:
    if compared is None:
        return ""
    return f"{compared.answer} ({'; '.join(filter(None, (f'{compared.difference:+.1f}', compared.chance)))})"


def _legend(results: Results) -> list[str]:
    study = results.study
    seeds = sorted({seed for row in results.rows for cell in row.cells.values() for seed in cell.by_seed})
    test = "paired by seed" if study.test == "paired" else "after Welch"
    text = (
        f"Scores in percent, mean ± standard deviation over {len(seeds)} seeds; in brackets the difference to "
        f"**{study.reference}** and a two-sided t-test {test}, called significant below {LEVEL:.0%}, without a "
        "correction for several comparisons."
    )
    text += "".join(
        f" *{verdict.name}*: whether {verdict.score} lies above {verdict.floor}, by a test paired by seed."
        for verdict in study.verdicts
    )
    text += f" Time of a step: {results.how_timed}." if results.how_timed else ""
    text += f" Paper: {study.published.source}" if study.published.columns else ""
    return [text]


def _complaints(results: Results) -> list[str]:
    lines = []
    for row in results.rows:
        lines += [
            f"- {row.variant}, seed {seed}: FAILED: {' '.join(error.split())}" for seed, error in row.errors.items()
        ]
        if row.missing:
            lines.append(f"- {row.variant}: not yet run with seed {', '.join(map(str, row.missing))}")
    lines += [f"- UNKNOWN SCORE: {problem}" for problem in results.unknown]
    return ["", *lines] if lines else []


def _csv(results: Results) -> str:
    """A line a variant and score; one with the seeds' own values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "score", "mean", "sd", "n", "difference", "p", "significant", "by_seed"])
    for row in results.rows:
        for name, cell in row.cells.items():
            compared = cell.comparison
            verdict = ["", "", ""]
            if compared is not None:
                p = "" if compared.p is None else f"{compared.p:.6g}"
                verdict = [f"{compared.difference:.4f}", p, str(compared.significant).lower()]
            sd = "" if math.isnan(cell.deviation) else f"{cell.deviation:.4f}"
            by_seed = " ".join(f"{seed}:{value:.4f}" for seed, value in cell.by_seed.items())
            writer.writerow([row.variant, name, f"{cell.mean:.4f}", sd, len(cell.by_seed), *verdict, by_seed])
    return text.getvalue()


def _json(results: Results) -> dict:
    study = results.study
    return {
        "study": study.name,
        "title": study.title,
        "reference": study.reference,
        "test": study.test,
        "times": results.how_timed or None,
        "paper": {"source": study.published.source, "columns": list(study.published.columns)},
        "rows": [
            {
                "variant": row.variant,
                "scores": {name: _json_cell(cell) for name, cell in row.cells.items()},
                "verdicts": {name: _json_verdict(compared) for name, compared in row.verdicts.items()},
                "positions": row.positions,
                "trained_parameters": row.trained_parameters,
                "milliseconds": row.milliseconds,
                "paper": list(row.published),
                "errors": {str(seed): error for seed, error in row.errors.items()},
                "missing": list(row.missing),
            }
            for row in results.rows
        ],
    }


def _json_cell(cell: Cell) -> dict:
    compared = cell.comparison
    return {
        "mean": cell.mean,
        "sd": _finite(cell.deviation),
        "by_seed": {str(seed): value for seed, value in cell.by_seed.items()},
        "difference": None if compared is None else compared.difference,
        "p": None if compared is None else compared.p,
        "significant": None if compared is None else compared.significant,
    }


def _json_verdict(compared: Comparison) -> dict:
    return {"difference": compared.difference, "p": compared.p, "answer": compared.answer}


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
