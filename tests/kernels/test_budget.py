"""Kernels compiled ahead of time and held to their budgets, in a process of their own, and a kernel that is refused."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pam_kit.kernels.compiling import Facts, compile_entry, faults
from pam_kit.kernels.entries import CAPABILITIES, Entry
from pam_kit.kernels.report import main, table

FOLDER = Path(__file__).parent
GATHER = Entry(
    "shuffle_project",
    "as first written",
    "unaligned_kernel:gathered_product",
    {
        "tokens": "*bf16",
        "weight": "*bf16",
        "out": "*bf16",
        "M": 1024,
        "N": 1536,
        "C": 256,
        "width": 64,
        "stride_t": 256,
    },
    {"HINT": True, "BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64},
    warps=8,
    stages=3,
    min_vector_loads=24,
)
FACTS = Facts(128, 0, 0, 64 << 10, ("HMMA",), 24, 4)


def report(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-P", "-m", "pam_kit.kernels.report", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_what_the_default_run_compiles_is_within_budget():
    """One line a kernel and card; all of them together are some 24, with every card among them."""
    done = report("--checked")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()[2:]
    assert len(lines) == sum(len(entry.checked) for entry in table()) <= 26 and all("| ok |" in line for line in lines)
    assert all(f"sm_{capability}" in done.stdout for capability in CAPABILITIES)


@pytest.mark.slow
def test_every_entry_is_within_budget():
    done = report()
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_kernel_that_lacks_the_alignment_hint_is_refused(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    assert faults(GATHER, 80, compile_entry(GATHER, 80)) == []
    bare = replace(GATHER, constants={**GATHER.constants, "HINT": False})
    found = faults(bare, 80, compile_entry(bare, 80))
    assert any("wide loads, 24 expected" in fault for fault in found) and any(
        "narrow loads" in fault for fault in found
    )


@pytest.mark.parametrize(("change", "fault"), [
    ({"spills": 3}, "3 instructions move registers"),
    ({"stack": 16}, "16 bytes of stack"),
    ({"registers": 256}, "256 registers, 255 allowed"),
    ({"shared_memory": 106 << 10}, "the card has 101376"),
    ({"matrix_instructions": ()}, "no matrix instructions"),
    ({"vector_loads": 12}, "12 wide loads, 24 expected"),
    ({"scalar_loads": 36}, "36 narrow loads, 16 allowed"),
])  # fmt: skip
def test_each_limit_is_held(change, fault):
    assert faults(GATHER, 89, FACTS) == []
    (found,) = faults(GATHER, 89, replace(FACTS, **change))
    assert fault in found


def test_more_warps_leave_fewer_registers():
    (found,) = faults(replace(GATHER, warps=16), 80, replace(FACTS, registers=130))
    assert found == "130 registers, 128 allowed"


def test_arguments_of_an_entry_are_those_of_its_kernel(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    with pytest.raises(ValueError, match="takes tokens, weight.*given are"):
        compile_entry(replace(GATHER, constants={"HINT": True}), 80)


def test_nothing_is_compiled_under_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="unset it"):
        compile_entry(GATHER, 80)


def test_a_broken_budget_is_an_exit_status(monkeypatch, capsys):
    entry = replace(table(["shuffle_project"])[0], checked=(80,))
    monkeypatch.setattr("pam_kit.kernels.report.table", lambda operators: [entry])
    for function in ("compile_entry",):
        monkeypatch.setattr(f"pam_kit.kernels.report.{function}", lambda *_: replace(FACTS, spills=2))
    assert main(["--checked"]) == 1
    said = capsys.readouterr()
    assert "2 instructions move registers" in said.out and "1 compiled, 1 over budget" in said.err


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ["one", "odd"])
def test_kernels_compile_for_sizes_on_which_triton_specialises(sizes):
    """An argument of 1 becomes a constant, which has no methods of a tensor: nothing the interpreter would notice."""
    seen = set()
    for entry in table(["shuffle_project"]):
        if entry.kernel in seen or "bf16" not in entry.name:
            continue
        seen.add(entry.kernel)
        given = {
            name: value if isinstance(value, str) else 1 if sizes == "one" else value + 3
            for name, value in entry.arguments.items()
        }
        changes = {"EVEN": False, "KEPT": True}
        constants = {name: changes.get(name, value) for name, value in entry.constants.items()}
        compile_entry(replace(entry, arguments=given, constants=constants), 80)
    assert len(seen) == 4
