"""What was measured as lines of Markdown, as CSV and as bars. Torch-free."""

import csv
from collections.abc import Sequence
from pathlib import Path

from pam_kit.bench.inference_benchmark import Result, Row
from pam_kit.bench.works import STAGES

_HEAD = ("work", "path", "seconds", *(f"{stage} ms" for stage in STAGES), "tokens/s", "peak MB")


def markdown(result: Result) -> list[str]:
    """The facts, a table with a line for each work and path, and a sentence on each work."""
    facts, rows = result.facts, result.rows
    lines = [
        f"{facts['device']}, threads: {facts['threads']}, torch {facts['torch']}; decoder: "
        f"{facts['decoder_parameters'] / 1e6:.0f} M of {facts['parameters'] / 1e6:.0f} M parameters, "
        f"{facts['vocabulary']:,} words",
        "",
        _line(_HEAD),
        _line(["---"] * 2 + ["---:"] * (len(_HEAD) - 2)),
    ]
    for row in rows:
        lines.append(_line(_cells(row, "kit", "")))
        if row["plain_seconds"] is not None:
            lines.append(_line(_cells(row, "plain", "plain_")))
    return [*lines, "", *(sentence for row in rows for sentence in _sentences(row, facts))]


def write_csv(result: Result, to: str | Path) -> None:
    """One line for each work; what has parts is a column for each of them."""
    flat = [_flat(row) for row in result.rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    with open(to, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)


def draw(result: Result, to: str | Path) -> None:
    """The seconds of each work by stage, and of the whole, as bars in a PNG file."""
    from pam_kit.kernels.bars import draw_bars

    groups = {}
    for row in result.rows:
        bars = {"kit": row["seconds"], "plain": row["plain_seconds"]}
        for stage in STAGES if "stages_ms" in row else ():
            bars[f"{stage}, kit"] = row["stages_ms"][stage] / 1000
            bars[f"{stage}, plain"] = row["plain_stages_ms"] and row["plain_stages_ms"][stage] / 1000
        groups[row["work"]] = {name: seconds for name, seconds in bars.items() if seconds is not None}
    draw_bars(groups, Path(to), f"seconds, {result.facts['device']}")


def _cells(row: Row, path: str, prefix: str) -> list[str]:
    stages, speed = row.get(f"{prefix}stages_ms"), row.get(f"{prefix}tokens_per_second")
    return [
        row["work"],
        path,
        f"{row[f'{prefix}seconds']:.2f}",
        *(f"{stages[stage]:,.0f}" if stages else "" for stage in STAGES),
        f"{speed:.1f}" if speed else "",
        f"{row[f'{prefix}peak_mb']:,.0f}",
    ]


def _sentences(row: Row, facts: Row) -> list[str]:
    said = []
    if row["plain_seconds"] is not None:
        same = "the same output" if row["same_output"] else f"ANOTHER OUTPUT ({row.get('different')})"
        if ties := row.get("ties"):
            same += f" (but for {ties} answers in which rounding decides between two words)"
        memory = "" if row["memory_ratio"] is None else f"{row['memory_ratio']:.2f} of the peak memory, "
        said.append(f"{1 / row['time_ratio']:.2f} times as fast ({row['time_ratio']:.2f} of the time), {memory}{same}")
    if "one_region_peak_mb" in row:
        share = row["peak_mb"] / row["one_region_peak_mb"] if row["one_region_peak_mb"] > 0 else float("nan")
        whole = (row["peak_mb"] + row["held_mb"]) / (row["one_region_peak_mb"] + row["held_mb"])
        said.append(
            f"peak {share:.2f} times that of one region ({row['one_region_peak_mb']:,.0f} MB), {whole:.2f} times with "
            f"the {row['held_mb']:,.0f} MB that were held before"
        )
        if row["roofline"]:
            parts = ", ".join(f"{stage} {share:.0%}" for stage, share in row["roofline"].items())
            said.append(f"share of what {facts['device']} allows in bfloat16: {parts}")
        else:
            said.append(f"no roofline, since the peaks of {facts['device']} are not known here")
        said += row["notes"]
    return [f"- {row['work']}: {'; '.join(said)}."]


def _flat(row: Row) -> Row:
    flat: Row = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{part}": item for part, item in value.items()}
        else:
            flat[name] = "; ".join(value) if isinstance(value, list) else value
    return flat


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
