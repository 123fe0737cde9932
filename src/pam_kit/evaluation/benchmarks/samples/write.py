"""Which sample belongs to which benchmark."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pam_kit.evaluation.benchmarks.registry import BENCHMARKS, find_benchmark
from pam_kit.evaluation.benchmarks.samples import judged, regions, videos, words

WRITERS: dict[str, Callable[[Path], None]] = {
    "lvis": regions.write_lvis,
    "paco": regions.write_paco,
    "coco_text": words.write_coco_text,
    "total_text": words.write_total_text,
    "vg": regions.write_vg,
    "refcocog": regions.write_refcocog,
    "ref_l4": regions.write_ref_l4,
    "ferret": judged.write_ferret,
    "mdvp": judged.write_mdvp,
    "elysium": videos.write_elysium,
    "bensmot": videos.write_bensmot,
    "hc_stvg": videos.write_hc_stvg,
    "videorefer_d": videos.write_videorefer_d,
    "activitynet_stream": videos.write_activitynet_stream,
}


def write_samples(out: str | Path, names: Sequence[str] | None = None) -> dict[str, Path]:
    """A sample of each of the benchmarks ``names``, by default of all, in ``out``/NAME; returns the folders.

    Every variant that the benchmark has is in it, of the same regions. Nothing is downloaded.

    Raises PamKitError for an unknown name, and MissingPackageError where the Parquet file of Ref-L4 cannot be written.
    """
    chosen = [find_benchmark(name).name for name in names or BENCHMARKS]
    folders = {name: Path(out) / name for name in chosen}
    for name, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        WRITERS[name](folder)
    return folders
