"""``python -m pam_kit.kernels.roofline``: writes docs/kernels_roofline.md, what each implementation moves at least.

Nothing is run on a GPU: launches and bytes of the torch implementations are counted on the meta device, those of the
fused ones come from formulas, and a card's time is the least its peak rates allow.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pam_kit.kernels.cards import CARDS, Card
from pam_kit.kernels.cases import Case, cases
from pam_kit.kernels.counting import Launch, kept_bytes, launches, passes
from pam_kit.kernels.entries import OPERATORS

DOCUMENT = Path(__file__).parents[1] / "docs" / "kernels_roofline.md"
MIB = 1 << 20
HEAD = """# Kernels: what fusion can bring, and what it cannot

Written by `python -m pam_kit.kernels.roofline`. **No time on this page is measured**; those that are stand in
[kernels_measured.md](kernels_measured.md). Launches and bytes of `eager` (as published) and `view` (the torch path of
this kit) are counted operation by operation in bfloat16; those of `triton` are formulas. A pass takes at least the sum
over its launches of the larger of bytes / bandwidth and operations / peak: A100 SXM 312 TFLOP/s and 2.04 TB/s, H100
SXM 989 TFLOP/s and 3.35 TB/s. What a launch costs the CPU (some 5 us without CUDA graphs) comes on top, and no kernel
reaches the peaks. `compiled` is not listed: what torch.compile fuses is decided on the card. Figures in MiB are for
one region or frame.
"""
COLUMNS = ("case", "pass", "implementation", "launches", "moved MiB", "kept MiB", "A100 us", "H100 us")


@dataclass(frozen=True)
class Work:
    """What one implementation of a case launches in one pass, and what it keeps for the backward pass, in bytes."""

    case: Case
    mode: str
    provider: str
    launches: Sequence[Launch]
    kept: int | None

    @property
    def moved(self) -> int:
        return sum(launch.bytes for launch in self.launches)


def bound(work: Sequence[Launch], card: Card) -> float:
    """Seconds that these launches take at least, one after the other."""
    return sum(max(launch.bytes / card.bandwidth, launch.flops / card.operations) for launch in work)


def work(case: Case) -> Iterator[Work]:
    """Forward, then backward where the fused operator has one, of ``eager``, ``view`` and ``triton``."""
    inputs, counted = case.inputs("meta", torch.bfloat16), ("eager", "view")
    for provider in counted:
        kept = kept_bytes(case.providers[provider], *inputs) if case.backward else None
        yield Work(case, "forward", provider, launches(case.providers[provider], *inputs), kept)
    yield Work(case, "forward", "triton", case.forward, case.kept if case.backward else None)
    if case.backward:
        for provider in counted:
            yield Work(case, "backward", provider, passes(case.providers[provider], *inputs)[1], None)
        yield Work(case, "backward", "triton", case.backward, None)


def section(operator: str) -> str:
    """The table of one operator and the notes of its cases."""
    found = cases([operator])
    lines = [f"## {operator}", "", *_table_row(COLUMNS), *_table_row(["---"] * len(COLUMNS))]
    lines += [line for case in found for done in work(case) for line in _table_row(_cells(done))]
    for note in dict.fromkeys(case.note for case in found if case.note):
        lines += ["", note]
    return "\n".join(lines) + "\n"


def document(operators: Sequence[str] = OPERATORS) -> str:
    return "\n".join([HEAD, *map(section, operators)])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pam_kit.kernels.roofline", description=__doc__)
    parser.add_argument("--to", type=Path, default=DOCUMENT, help="the file to write (default: %(default)s)")
    options = parser.parse_args(arguments)
    options.to.write_text(document(), encoding="utf-8")
    print(f"wrote {options.to}")


def _cells(done: Work) -> Iterator[str]:
    yield from (done.case.name, done.mode, done.provider, str(len(done.launches)))
    yield f"{done.moved / MIB / done.case.regions:.1f}"
    yield "" if done.kept is None else f"{done.kept / MIB / done.case.regions:.1f}"
    for card in CARDS.values():
        yield f"{bound(done.launches, card) * 1e6:.1f}"


def _table_row(cells) -> list[str]:
    return ["| " + " | ".join(cells) + " |"]


if __name__ == "__main__":
    main()
