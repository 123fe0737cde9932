"""Tables, files and the page on all runs in a folder. Torch-free but for the pictures of the page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pam_kit.atomic_files import write_json, write_text
from pam_kit.errors import PamKitError
from pam_kit.evaluation.benchmarks.contract import Headline
from pam_kit.evaluation.benchmarks.paper import paper_notes, paper_rows
from pam_kit.evaluation.benchmarks.registry import BENCHMARKS
from pam_kit.evaluation.records import read_records
from pam_kit.evaluation.reports.page import Section, page
from pam_kit.evaluation.reports.results import ITEMS, RESULT, BenchmarkResult
from pam_kit.evaluation.reports.table import Row, Table, as_csv, markdown, result_table

MARKDOWN, TABLE, SCORES, PAGE = "scores.md", "scores.csv", "scores.json", "report.html"
PREDICTIONS = "predictions.jsonl"


def write_reports(out: Path, cases: int = 4) -> list[Table]:
    """``scores.json``, ``scores.md``, ``scores.csv`` and ``report.html`` on every run that is scored in ``out``.

    Args:
        cases: so many of the best and of the worst regions of each run are shown on the page.
    """
    folders = sorted(path.parent for path in out.glob(f"*/{RESULT}"))
    found = [(folder, BenchmarkResult.load(folder)) for folder in folders]
    if not found:
        raise PamKitError(f"{out} holds no run that is scored")
    places = {name: place for place, name in enumerate(BENCHMARKS)}
    found.sort(key=lambda pair: places.get(pair[1].benchmark, len(places)))
    folders, results = [folder for folder, _ in found], [result for _, result in found]
    tables = [result_table(result, _headlines(result), _published(result), _told(result)) for result in results]
    write_json(out / SCORES, {one.run: _facts(one) for one in results}, unique=True)
    told = paper_notes() if any(result.benchmark in BENCHMARKS for result in results) else ()
    notes = "".join(f"- {note}\n" for note in told)
    write_text(out / MARKDOWN, f"{markdown(tables)}\n{_made_by(results)}{notes}", unique=True)
    write_text(out / TABLE, as_csv(results, tables), unique=True)
    sections = [_section(*all_of_one, cases) for all_of_one in zip(folders, results, tables, strict=True)]
    write_text(out / PAGE, page("Evaluation of " + _model(results[0]), _about(results), sections, told), unique=True)
    return tables


def _headlines(result: BenchmarkResult) -> Sequence[Headline]:
    return BENCHMARKS[result.benchmark].headlines if result.benchmark in BENCHMARKS else ()


def _section(folder: Path, result: BenchmarkResult, table: Table, count: int) -> Section:
    items = _items(folder)
    protocol, metric = _shown_by(result, items)
    if not metric:
        return Section(table)
    from pam_kit.evaluation.reports.cases import extreme_cases, with_picture

    records = list(read_records(folder / PREDICTIONS))
    best, worst = extreme_cases(records, items[protocol], metric, count)
    root = result.about.get("root")
    if root:
        best, worst = ([with_picture(case, Path(root)) for case in cases] for cases in (best, worst))
    return Section(table, metric, protocol, best, worst)


def _items(folder: Path) -> dict[str, dict[str, dict[str, float | None]]]:
    """Protocol -> id -> metric -> value."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    with open(folder / ITEMS, encoding="utf-8") as lines:
        for line in lines:
            values = json.loads(line)
            found.setdefault(values.pop("protocol"), {})[values.pop("id")] = values
    return found


def _shown_by(result: BenchmarkResult, items: dict[str, dict[str, Any]]) -> tuple[str, str]:
    """Protocol and metric by which regions are best and worst: the first that the paper prints, else the first."""
    printed = [(headline.protocol, headline.metric) for headline in _headlines(result)]
    known = [(protocol, metric) for protocol, own in items.items() for metric in next(iter(own.values()), {})]
    return next((pair for pair in [*printed, *known] if pair in known), ("", ""))


def _facts(result: BenchmarkResult) -> dict[str, Any]:
    return {
        "benchmark": result.benchmark,
        "scores": result.scores,
        "not_judged": list(result.unjudged),
        "failed": result.failed,
        "regions": result.regions,
        "broken": result.broken,
        "left_out": result.left_out,
        "about": result.about,
        "notes": list(result.notes),
    }


def _model(result: BenchmarkResult) -> str:
    return str(result.about.get("model", result.run))


def _about(results: Sequence[BenchmarkResult]) -> dict[str, str]:
    """What is the same in all runs, as words."""
    first = results[0].about
    same = {key: value for key, value in first.items() if all(one.about.get(key) == value for one in results)}
    return {key: _words(value) for key, value in same.items() if value not in ([], "", None)}


def _made_by(results: Sequence[BenchmarkResult]) -> str:
    lines = [f"- {key}: {value}" for key, value in _about(results).items()]
    for one in results:
        lines += [
            f"- {one.run}: {key}: {_words(one.about[key])}"
            for key in one.about
            if key not in _about(results) and one.about[key]
        ]
    return "## How the numbers were made\n\n" + "\n".join(lines) + "\n"


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else " ".join(str(value).split())


def _published(result: BenchmarkResult) -> list[Row]:
    """What papers print of the benchmark."""
    if result.benchmark not in BENCHMARKS:
        return []
    return [Row(row.model, row.source, row.values, note=row.note) for row in paper_rows(result.benchmark)]


def _told(result: BenchmarkResult) -> Sequence[str]:
    """What has to be known of those rows, and why some are missing."""
    return paper_notes(result.benchmark) if result.benchmark in BENCHMARKS else ()
