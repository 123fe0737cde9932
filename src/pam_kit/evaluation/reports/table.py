"""Our numbers beside those that the paper prints, as Markdown and CSV. Torch-free."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pam_kit.evaluation.benchmarks.contract import Headline
from pam_kit.evaluation.reports.results import BenchmarkResult

NOT_JUDGED = "not judged: give --judge-url"


@dataclass(frozen=True)
class Row:
    """One model, scored in one way.

    Args:
        model: its name.
        source: the protocol, or where the numbers are printed.
        values: column -> the number as papers print it, or why there is none.
        ours: whether it was scored here.
        note: what has to be known besides.
    """

    model: str
    source: str
    values: Mapping[str, float | str]
    ours: bool = False
    note: str = ""


@dataclass(frozen=True)
class Table:
    """What is known of one benchmark.

    Args:
        columns: as the paper heads them, in its order.
        beside: metrics that the paper does not print: protocol -> metric -> value, in the libraries' own scale.
        warnings: what makes the numbers incomplete.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    beside: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def head(self) -> list[str]:
        return ["model", "protocol or source", *self.columns]

    def cells(self, row: Row) -> list[str]:
        return [row.model, row.source, *(_shown(row.values.get(column)) for column in self.columns)]

    def beside_lines(self) -> list[str]:
        """What the paper does not print, a line a protocol."""
        return [
            f"{protocol}, not in the paper, raw scale: "
            + ", ".join(f"{name} {value:.4f}" for name, value in own.items())
            for protocol, own in self.beside.items()
        ]


def result_table(
    result: BenchmarkResult, headlines: Sequence[Headline], published: Sequence[Row], told: Sequence[str] = ()
) -> Table:
    """The table of a benchmark.

    Args:
        headlines: what the paper prints of it; none for predictions of something else.
        published: rows of the paper, in the columns of the headlines.
        told: notes on those rows.
    """
    model = str(result.about.get("model", "predictions"))
    columns = [headline.column for headline in headlines]
    own: list[Row] = []
    beside: dict[str, dict[str, float]] = {}
    for protocol, scores in result.scores.items():
        printed = _printed(protocol, scores, headlines)
        own.append(Row(model, f"here, {protocol}", printed, True))
        names = {headline.metric for headline in headlines if headline.column in printed}
        rest = {name: value for name, value in scores.items() if name not in names}
        beside |= {protocol: rest} if rest else {}
    for protocol in result.unjudged:
        values = {headline.column: NOT_JUDGED for headline in headlines if headline.protocol == protocol}
        own.append(Row(model, f"here, {protocol}", values, True))
    if not headlines:  # nothing is printed elsewhere: the metrics themselves are the columns
        columns = list(dict.fromkeys(name for scores in result.scores.values() for name in scores))
        own, beside = [Row(model, f"here, {p}", dict(s), True) for p, s in result.scores.items()], {}
    title = f"{result.title} ({result.run}, {result.regions} regions)" if result.title else result.run
    notes = (*result.notes, *told, *(f"{row.model}, {row.source}: {row.note}" for row in published if row.note))
    return Table(title, tuple(columns), (*own, *published), beside, notes, _warnings(result))


def markdown(tables: Iterable[Table]) -> str:
    """The tables one below the other."""
    lines = []
    for table in tables:
        head = table.head()
        lines += [f"## {table.title}", "", _line(head), _line(["---", "---", *["---:"] * len(table.columns)])]
        lines += [_line(table.cells(row)) for row in table.rows]
        told = [f"**{line}**" for line in table.warnings] + [*table.beside_lines(), *table.notes]
        lines += ["", *(f"- {line}" for line in told), ""] if told else [""]
    return "\n".join(lines)


def as_csv(results: Sequence[BenchmarkResult], tables: Sequence[Table]) -> str:
    """One line a number: run, model, source, metric, value; ours raw and as printed, the paper's as printed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "model", "source", "metric", "scale", "value"])
    for result, table in zip(results, tables, strict=True):
        for row in table.rows:
            for column in table.columns:
                value = row.values.get(column)
                if isinstance(value, float):
                    writer.writerow([result.run, row.model, row.source, column, "printed", f"{value:.6g}"])
        for protocol, scores in result.scores.items():
            for name, raw in scores.items():
                model = result.about.get("model", "predictions")
                writer.writerow([result.run, model, f"here, {protocol}", name, "raw", repr(raw)])
    return text.getvalue()


def _printed(protocol: str, scores: Mapping[str, float], headlines: Sequence[Headline]) -> dict[str, float | str]:
    """Column -> value of those headlines that the protocol has a number for; its own where a metric has several."""
    fitting = [headline for headline in headlines if headline.metric in scores]
    own = [headline for headline in fitting if headline.protocol == protocol]
    named = {headline.metric for headline in own}
    chosen = own + [headline for headline in fitting if headline.metric not in named]
    return {headline.column: headline.scale * scores[headline.metric] for headline in chosen}


def _warnings(result: BenchmarkResult) -> tuple[str, ...]:
    lines = [f"{protocol}: {NOT_JUDGED}" for protocol in result.unjudged]
    lines += [f"{protocol} could not be scored: {why}" for protocol, why in result.failed.items()]
    if result.broken:
        lines.append(
            f"{result.broken} of {result.regions} regions could not be read and count as empty texts; "
            "predictions.jsonl says why of each"
        )
    if result.left_out:
        lines.append(f"{result.left_out} entries of the benchmark's files could not be used and are not in the numbers")
    return tuple(lines)


def _shown(value: float | str | None) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
