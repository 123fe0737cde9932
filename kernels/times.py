"""``python -m pam_kit.kernels.times``: writes docs/kernels_measured.md from tables of ``benchmark``.

A table is docs/kernels_CARD.csv, as ``benchmark --csv`` wrote it on that card.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean

from pam_kit.kernels.cases import PROVIDERS

DOCS = Path(__file__).parents[1] / "docs"
DOCUMENT = DOCS / "kernels_measured.md"
HEAD = """# Kernels: what was measured on GPUs

Written by `python -P -m pam_kit.kernels.times` from `docs/kernels_*.csv`, which `python -P -m pam_kit.kernels.benchmark
--csv FILE` wrote on the card of each heading: medians in microseconds, the cache cleared ahead of each run, every
operator compared with float64 first. `eager` is the published code, `view` the torch path of this kit, `compiled`
torch.compile of it. Ratios are time of the other / time of `triton`: above 1, the kernel is the faster one. Peaks are
beyond what is held before, in MiB. What bytes and operations allow at best is in
[kernels_roofline.md](kernels_roofline.md).

The kernels of `mask_tail` and `parallel_heads` are the faster ones and keep less, so they are the choice of
`kernels=auto` on a GPU. Those of `shuffle_project` are not: its work is a product of matrices, and the library's is
faster than Triton's by more than the merged tokens cost to write and read. `auto` is torch there, and `kernels=triton`
has them. `compiled` of `mask_tail` was measured before its torch path could be compiled as one graph.
"""
COLUMNS = ("case", "pass", *(f"{name} us" for name in PROVIDERS))
COLUMNS += ("view / triton", "compiled / triton", "MiB view", "MiB triton")
Timed = Mapping[str, Mapping[str, str]]


def page() -> str:
    """The whole document."""
    return "\n".join([HEAD, *(section for rows in _tables() for section in _card(rows))])


def mean_ratio(operator: str) -> float:
    """Time of torch's path / time of the kernels, as a geometric mean over what was measured on all cards."""
    found = [timed for rows in _tables() for timed in _by_case(rows, operator).values()]
    return geometric_mean(float(timed["view"]["median_us"]) / float(timed["triton"]["median_us"]) for timed in found)


def _card(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    first = rows[0]
    yield f"## {first['device']}, {first['type']}, torch {first['torch']}\n"
    for operator in dict.fromkeys(row["operator"] for row in rows):
        yield f"### {operator}\n"
        lines = [COLUMNS, ["---"] * 2 + ["---:"] * (len(COLUMNS) - 2)]
        lines += [_cells(case, mode, one) for (case, mode), one in _by_case(rows, operator).items()]
        yield "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _by_case(rows: Sequence[Mapping[str, str]], operator: str) -> Mapping[tuple[str, str], Timed]:
    """Case and pass -> provider -> its row."""
    found: dict[tuple[str, str], dict[str, Mapping[str, str]]] = {}
    for row in (row for row in rows if row["operator"] == operator):
        found.setdefault((row["case"], row["mode"]), {})[row["provider"]] = row
    return found


def _cells(case: str, mode: str, timed: Timed) -> list[str]:
    times = {name: float(timed[name]["median_us"]) for name in PROVIDERS}
    ratios = (times[name] / times["triton"] for name in ("view", "compiled"))
    peaks = (f"{float(timed[name]['peak_mib']):.1f}" for name in ("view", "triton"))
    return [case, mode, *(f"{times[name]:.0f}" for name in PROVIDERS), *(f"{ratio:.2f}" for ratio in ratios), *peaks]


def _tables() -> Iterator[list[dict[str, str]]]:
    for file in sorted(DOCS.glob("kernels_*.csv")):
        with file.open(newline="", encoding="utf-8") as lines:
            yield list(csv.DictReader(lines))


if __name__ == "__main__":
    DOCUMENT.write_text(page(), encoding="utf-8")
    print(f"wrote {DOCUMENT}")
