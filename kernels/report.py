"""``python -m pam_kit.kernels.report``: every kernel of every configuration table compiled and held to its budget.

Needs no GPU. The first run takes about six seconds a line on one core; Triton keeps the results in ~/.triton/cache.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module

from pam_kit.kernels.compiling import Facts, compile_entry, faults
from pam_kit.kernels.entries import OPERATORS, Entry

HEADER = ("kernel", "card", "registers", "spills", "shared KiB", "matrix instructions", "wide", "narrow", "verdict")


def table(operators: Sequence[str] = OPERATORS) -> list[Entry]:
    """The entries of these operators; each operator's folder has a function ``entries``."""
    return [entry for name in operators for entry in import_module(f"pam_kit.kernels.{name}").entries()]


def compiled(entries: Sequence[Entry], checked_only: bool = False) -> Iterator[tuple[Entry, int, Facts, list[str]]]:
    """Entry, capability, facts and faults, one after the other as they are compiled.

    Args:
        checked_only: only what the default test run compiles.
    """
    for entry in entries:
        for capability in entry.checked if checked_only else entry.capabilities:
            facts = compile_entry(entry, capability)
            yield entry, capability, facts, faults(entry, capability, facts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a kernel and card; 1 when any breaks its budget."""
    options = _parser().parse_args(arguments)
    print("| " + " | ".join(HEADER) + " |", "| " + " | ".join("---" for _ in HEADER) + " |", sep="\n")
    broken = number = 0
    for entry, capability, facts, found in compiled(table(options.operator or OPERATORS), options.checked):
        print(_line(entry, capability, facts, found), flush=True)
        broken, number = broken + bool(found), number + 1
    print(f"\n{number} compiled, {broken} over budget", file=sys.stderr)
    return 1 if broken or not number else 0


def _line(entry: Entry, capability: int, facts: Facts, found: list[str]) -> str:
    values = (
        entry.title,
        f"sm_{capability}",
        facts.registers,
        facts.spills,
        round(facts.shared_memory / 1024),
        " ".join(facts.matrix_instructions) or "-",
        facts.vector_loads,
        facts.scalar_loads,
        "; ".join(found) or "ok",
    )
    return "| " + " | ".join(map(str, values)) + " |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pam_kit.kernels.report", description=__doc__)
    parser.add_argument("operator", nargs="*", help=f"only these of {', '.join(OPERATORS)}")
    parser.add_argument("--checked", action="store_true", help="only what the default test run compiles")
    return parser


if __name__ == "__main__":
    sys.exit(main())
