"""One web page with the tables and the best and worst regions; it needs no other file. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from pam_kit.evaluation.reports.table import Table

if TYPE_CHECKING:
    from pam_kit.evaluation.reports.cases import Case

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1e; background: #fff; margin: 2rem auto; max-width: 1120px;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-top: 1px solid #d8d8dc; padding-top: 1.2rem; }
h3 { margin-bottom: .4rem; } dl.about { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; }
dt { color: #6e7076; } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; } th, td { padding: .3rem .7rem; text-align: right; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
thead th { border-bottom: 2px solid #1c1c1e; } tbody tr { border-bottom: 1px solid #e6e6ea; }
tr.ours { background: #eef5ff; font-weight: 600; } td { font-variant-numeric: tabular-nums; }
.notes { color: #55575d; font-size: .92rem; } .missing { color: #a33; }
.cases { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
figure { margin: 0; width: 260px; border: 1px solid #d8d8dc; border-radius: 8px; overflow: hidden; font-size: .9rem; }
figure img { width: 100%; display: block; background: #f2f2f5; }
figcaption { padding: .5rem .7rem .7rem; overflow-wrap: anywhere; } figcaption p { margin: .25rem 0; }
.label { color: #6e7076; } .score { font-weight: 600; }
"""


@dataclass(frozen=True)
class Section:
    """What the page says of one benchmark. ``best`` and ``worst`` are by ``metric``, of ``protocol``."""

    table: Table
    metric: str = ""
    protocol: str = ""
    best: Sequence["Case"] = ()
    worst: Sequence["Case"] = ()


def page(title: str, about: Mapping[str, str], sections: Sequence[Section], notes: Sequence[str] = ()) -> str:
    """The page as HTML.

    Args:
        about: facts on the model and the run, shown at the top.
        sections: one a benchmark.
        notes: what holds for all of them, shown at the end.
    """
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in about.items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n"
        f'<dl class="about">{facts}</dl>\n'
        + "\n".join(_section(one) for one in sections)
        + (f"\n<h2>On the published rows</h2>{_list(notes)}" if notes else "")
        + "\n</body></html>\n"
    )


def _section(section: Section) -> str:
    table = section.table
    parts = [f"<h2>{escape(table.title)}</h2>", _table(table)]
    parts += [f'<p class="missing">{escape(line)}</p>' for line in table.warnings]
    if told := (*table.beside_lines(), *table.notes):
        parts.append(_list(told))
    for name, cases in (("Best", section.best), ("Worst", section.worst)):
        if cases:
            parts.append(f"<h3>{name} by {escape(section.metric)} ({escape(section.protocol)})</h3>")
            parts.append(f'<div class="cases">{"".join(_figure(case, section.metric) for case in cases)}</div>')
    return "\n".join(parts)


def _list(notes: Sequence[str]) -> str:
    return '<ul class="notes">' + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head())
    rows = []
    for row in table.rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in table.cells(row))
        rows.append(f'<tr class="ours">{cells}</tr>' if row.ours else f"<tr>{cells}</tr>")
    body = "".join(rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(case: "Case", metric: str) -> str:
    record = case.record
    picture = f'<img src="{case.picture_address()}" alt="{escape(record.id, quote=True)}">' if case.picture else ""
    value = case.scores.get(metric)
    others = ", ".join(
        f"{name} {number:.3f}" for name, number in case.scores.items() if name != metric and number is not None
    )
    lines = [
        (escape(metric), f'<span class="score">{"-" if value is None else f"{value:.3f}"}</span> {escape(others)}')
    ]
    lines += [("said", escape(record.answer) or "(nothing)")]
    lines += [("expected" if place == 0 else "or", escape(text)) for place, text in enumerate(record.references[:3])]
    lines += [("asked", escape(record.question))] if record.question else []
    lines += [("broken", escape(case.why))] if case.why else []
    lines += [("region", escape(record.id))]
    told = "".join(f'<p><span class="label">{name}</span> {text}</p>' for name, text in lines)
    return f"<figure>{picture}<figcaption>{told}</figcaption></figure>"
