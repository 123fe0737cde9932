"""The benchmarks by their names. Torch-free."""

from pam_kit.errors import PamKitError
from pam_kit.evaluation.benchmarks.contract import Benchmark
from pam_kit.evaluation.benchmarks.lvis import Lvis, Paco
from pam_kit.registry import suggest

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in (Lvis(), Paco())}


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of that name; a PamKitError lists the names and proposes the nearest."""
    if name not in BENCHMARKS:
        raise PamKitError(f"unknown benchmark {name!r}{suggest(name, BENCHMARKS, 'the benchmarks are')}")
    return BENCHMARKS[name]
