"""Kernels compiled ahead of time, for cards that are not there, and what the machine code tells about their cost."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from pam_kit.kernels.dispatch import interpreting
from pam_kit.kernels.entries import Entry

# Shared memory one block may have, in bytes (CUDA C++ Programming Guide, table of compute capabilities).
SHARED_MEMORY = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
# Registers of a multiprocessor, which the threads of a block share.
REGISTERS = 65536
# Matrix instructions in machine code: mma.sync, wgmma and tcgen05.
MATRIX = re.compile(r"[HIQ]G?MMA|UTC\w*MMA")
# Loads from global memory: of 128 bits, by asynchronous copy or not, or of whole tiles; and those of fewer bits.
WIDE_LOAD = re.compile(r"LDG\S*\.128|UTMALDG|UBLKCP")
LOAD = re.compile(r"LDG|UTMALDG|UBLKCP")


@dataclass(frozen=True)
class Facts:
    """What one kernel costs on one card: a thread's registers and stack, a block's shared memory in bytes, loads."""

    registers: int
    stack: int
    spills: int
    shared_memory: int
    matrix_instructions: tuple[str, ...]
    vector_loads: int
    scalar_loads: int


def compile_entry(entry: Entry, capability: int) -> Facts:
    """Compile ``entry`` for ``capability`` (80 for 8.0) as a call with its arguments would; needs no GPU.

    Triton keeps the result in ~/.triton/cache, so a second time takes no compilation.

    Raises:
        RuntimeError: Triton's interpreter is switched on, under which nothing is compiled.
        ValueError: the entry's arguments and constants are not those of the kernel.
    """
    if interpreting():
        raise RuntimeError("TRITON_INTERPRET=1 is set, so kernels are interpreted, not compiled; unset it and restart")
    import triton
    from triton.backends.compiler import GPUTarget

    source = _source(entry)
    options = {"num_warps": entry.warps, "num_stages": entry.stages, **entry.options}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return read_facts(compiled.asm["cubin"], compiled.metadata.shared)


def faults(entry: Entry, capability: int, facts: Facts) -> list[str]:
    """Where ``facts`` break the entry's budget or the card's limits, one line each; empty when they hold."""
    limit = min(entry.max_registers, 255, REGISTERS // (32 * entry.warps))
    checks = {
        f"{facts.spills} instructions move registers to memory and back": facts.spills == 0,
        f"{facts.stack} bytes of stack": facts.stack == 0,
        f"{facts.registers} registers, {limit} allowed": facts.registers <= limit,
        f"{facts.shared_memory} bytes of shared memory, the card has {SHARED_MEMORY[capability]}": facts.shared_memory
        <= SHARED_MEMORY[capability],
        "no matrix instructions": bool(facts.matrix_instructions) or not entry.tensor_cores,
        f"{facts.vector_loads} wide loads, {entry.min_vector_loads} expected": facts.vector_loads
        >= entry.min_vector_loads,
        f"{facts.scalar_loads} narrow loads, {entry.max_scalar_loads} allowed": facts.scalar_loads
        <= entry.max_scalar_loads,
    }
    return [fault for fault, holds in checks.items() if not holds]


def read_facts(cubin: bytes, shared_memory: int) -> Facts:
    """What the machine code in ``cubin`` tells; ``shared_memory`` is what a launch asks for, in bytes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        operations = list(_operations(_run("nvdisasm", "-c", file.name)))
    spills = sum(operation.startswith(("STL", "LDL")) for operation in operations)
    matrix = {found.group() for operation in operations if (found := MATRIX.match(operation))}
    loads = [operation for operation in operations if LOAD.match(operation)]
    wide = sum(WIDE_LOAD.match(load) is not None for load in loads)
    registers, stack = (int(re.search(rf"{key}:(\d+)", usage).group(1)) for key in ("REG", "STACK"))  # type: ignore[union-attr]
    return Facts(registers, stack, spills, shared_memory, tuple(sorted(matrix)), wide, len(loads) - wide)


def _source(entry: Entry):
    """The kernel with the types and hints that Triton's own binder gives the entry's arguments."""
    from triton._C.libtriton import native_specialize_impl
    from triton.backends.nvidia.compiler import CUDABackend
    from triton.compiler import ASTSource

    module, _, name = entry.kernel.partition(":")
    kernel = getattr(import_module(module), name)
    _check_arguments(entry, kernel.arg_names)
    signature, constants, hints = {}, dict(entry.constants), {}
    for position, parameter in enumerate(kernel.params):
        value = entry.arguments.get(parameter.name)
        if parameter.name not in entry.arguments:
            signature[parameter.name] = "constexpr"
        elif isinstance(value, str):
            signature[parameter.name], hints[(position,)] = value, CUDABackend.parse_attr("D")
        else:
            kind, hint = native_specialize_impl(CUDABackend, value, False, not parameter.do_not_specialize, True)
            signature[parameter.name] = kind
            if kind == "constexpr":
                constants[parameter.name] = value
            elif hint:
                hints[(position,)] = CUDABackend.parse_attr(hint)
    return ASTSource(kernel, signature, constants, hints)


def _check_arguments(entry: Entry, wanted: list[str]) -> None:
    given = [*entry.arguments, *entry.constants]
    if sorted(given) != sorted(wanted):
        raise ValueError(f"{entry.title}: {entry.kernel} takes {', '.join(wanted)}; given are {', '.join(given)}")


def _operations(listing: str) -> Iterator[str]:
    """The operation of each line of machine code, ``LDG.E.128`` for ``/*0010*/ @P0 LDG.E.128 R4, [R2] ;``."""
    for line in re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+([^;]+);", listing, flags=re.MULTILINE):
        words = line.split()
        yield words[1] if words[0].startswith("@") and len(words) > 1 else words[0]


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([_tool(tool), *arguments], check=True, capture_output=True, text=True).stdout


@cache
def _tool(name: str) -> str:
    """The tool that comes with Triton."""
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)
