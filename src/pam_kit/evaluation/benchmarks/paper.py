"""What papers print of the benchmarks, to stand beside our own numbers. Torch-free.

The numbers are in ``paper_rows.json``, each row with the table that it was read in; ``notes`` and ``notes_of`` say
what could not be read.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pam_kit.evaluation.benchmarks.registry import find_benchmark


@dataclass(frozen=True)
class PaperRow:
    """One model as a paper prints it.

    Args:
        model: its name there.
        source: paper and table in which the numbers were read.
        values: column, as ``Headline.column`` has it -> the number as printed.
        note: what has to be known besides; "" for nothing.
    """

    model: str
    source: str
    values: dict[str, float]
    note: str = ""


def paper_rows(benchmark: str) -> tuple[PaperRow, ...]:
    """The published rows with a number of that benchmark, PAM's own first; PamKitError for an unknown name."""
    columns = [headline.column for headline in find_benchmark(benchmark).headlines]
    content = _content()
    found = []
    for row in content["rows"]:
        values = {column: float(row["values"][column]) for column in columns if column in row["values"]}
        if values:
            found.append(PaperRow(row["model"], content["sources"][row["source"]], values, row.get("note", "")))
    return tuple(found)


def paper_notes(benchmark: str = "") -> tuple[str, ...]:
    """What has to be known of the published rows of a benchmark, and which are missing; without one, of all rows."""
    if not benchmark:
        return tuple(_content()["notes"])
    note = _content()["notes_of"].get(find_benchmark(benchmark).name)
    return (note,) if note else ()


@cache
def _content() -> dict:
    return json.loads(files("pam_kit.evaluation.benchmarks").joinpath("paper_rows.json").read_text(encoding="utf-8"))
