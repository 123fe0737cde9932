"""The benchmarks by their names, in the order of the paper's tables. Torch-free."""

from pam_kit.errors import PamKitError
from pam_kit.evaluation.benchmarks.activitynet_stream import ActivityNetStream
from pam_kit.evaluation.benchmarks.bensmot import BenSmot
from pam_kit.evaluation.benchmarks.contract import Benchmark
from pam_kit.evaluation.benchmarks.elysium import Elysium
from pam_kit.evaluation.benchmarks.ferret import Ferret
from pam_kit.evaluation.benchmarks.hc_stvg import HcStvg
from pam_kit.evaluation.benchmarks.lvis import Lvis, Paco
from pam_kit.evaluation.benchmarks.mdvp import Mdvp
from pam_kit.evaluation.benchmarks.ref_l4 import RefL4
from pam_kit.evaluation.benchmarks.region_captions import RefCocoG, VisualGenome
from pam_kit.evaluation.benchmarks.scene_text import CocoText, TotalText
from pam_kit.evaluation.benchmarks.videorefer_d import VideoReferD
from pam_kit.registry import suggest

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Lvis(),
        Paco(),
        CocoText(),
        TotalText(),
        VisualGenome(),
        RefCocoG(),
        RefL4(),
        Ferret(),
        Mdvp(),
        Elysium(),
        BenSmot(),
        HcStvg(),
        VideoReferD(),
        ActivityNetStream(),
    )
}


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of that name; a PamKitError lists the names and proposes the nearest."""
    if name not in BENCHMARKS:
        raise PamKitError(f"unknown benchmark {name!r}{suggest(name, BENCHMARKS, 'the benchmarks are')}")
    return BENCHMARKS[name]
