"""``python -m pam_kit.bench.step_benchmark``: time and peak memory of a training step, the kit's and a plain one's.

As in PAM's second stage, perceiver, projector, separators and decoder learn and SAM 2 is frozen. Three variants take
the same step with the same random weights on the same batch: ``plain`` (see plain_step), ``kit``, and ``kept``, the kit
in a later pass with ``data.cache_features``. Every step is taken in a process of its own. Those of a turn get ready at
the same time, which takes longer than the steps, and take their steps one after the other, so that they share whatever
else the machine does; a ratio is the median of the ratios within the turns.

The peak is the highest resident memory during the step less what is held before it: weights, the optimiser's state and
the batch (see peak_memory). glibc is told to give freed blocks of 1 MiB and more back at once, so that resident memory
is memory in use. Torch-free.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from safetensors import safe_open

from pam_kit.bench.workers import Told, Worker
from pam_kit.errors import PamKitError

VARIANTS = ("plain", "kit", "kept")
# Leaves features for the last of them.
KEEP = "keep"
# Left to itself, glibc keeps ever larger freed blocks, up to 32 MiB, and they count as resident.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
MEASURED = ("seconds", "cpu_seconds", "peak_bytes")
# Of the loss, and of the largest gradient: sums are taken in another order.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4


@dataclass(frozen=True)
class StepSizes:
    """What is measured. Regions are those of one picture, questions those about one region.

    The decoder has about 100 million parameters, most of them rows of Qwen's vocabulary.
    """

    images: int = 2
    regions: int = 2
    questions: int = 1
    image_size: int = 512
    hidden_size: int = 512
    layers: int = 8
    heads: int = 8
    vocabulary: int = 151936


class StepWorker(Worker):
    """A process that takes one step; its ``facts`` are ``parameters`` of the decoder and ``threads``. One that keeps
    features has done so when it has facts.

    Args:
        variant: of ``VARIANTS``, or ``KEEP``.
        folder: for features.
    """

    def __init__(self, variant: str, sizes: StepSizes, folder: str):
        job = {"variant": variant, "sizes": asdict(sizes), "cache_folder": str(Path(folder, "features"))}
        super().__init__(f"the step {variant!r}", "pam_kit.bench.measured_step", job, GIVE_BACK)

    def take(self, gradients: str | None = None) -> Told:
        """What the step cost, see ``measured_step.Measurement``; ``gradients`` is a file for them."""
        return self.ask(gradients=gradients)


def benchmark(sizes: StepSizes, repeats: int, with_kept: bool = True) -> dict:
    """Measure every variant ``repeats`` times, in turn; the result is what ``--json`` prints.

    ``with_kept``: also the variant whose features are kept.
    """
    variants = VARIANTS if with_kept else VARIANTS[:2]
    with TemporaryDirectory(prefix="step-benchmark-") as folder:
        gradients = {variant: f"{folder}/{variant}.safetensors" for variant in variants}
        if with_kept:
            with StepWorker(KEEP, sizes, folder) as keeper:
                _ = keeper.facts  # it is ready when they are kept
        taken: dict[str, list[Told]] = {variant: [] for variant in variants}
        for turn in range(repeats):
            with ExitStack() as stack:
                workers = {name: stack.enter_context(StepWorker(name, sizes, folder)) for name in variants}
                # Nothing is timed while another one still gets ready.
                facts = [worker.facts for worker in workers.values()][0]
                for variant, worker in workers.items():
                    taken[variant].append(worker.take(gradients[variant] if turn == 0 else None))
        differences = [largest_difference(gradients["plain"], gradients[variant]) for variant in variants[1:]]
    losses = {variant: runs[0]["loss"] for variant, runs in taken.items()}
    difference, largest = max(differences)
    return {
        "sizes": asdict(sizes),
        "repeats": repeats,
        "decoder_parameters": facts["parameters"],
        "threads": facts["threads"],
        "variants": {variant: _summary(runs) for variant, runs in taken.items()},
        "ratios": {
            f"{variant}/{against}": _ratios(taken[variant], taken[against])
            for variant, against in (("kit", "plain"), ("kept", "kit"))
            if variant in taken
        },
        "same_loss": all(abs(loss - losses["plain"]) <= LOSS_TOLERANCE * losses["plain"] for loss in losses.values()),
        "same_gradients": difference <= GRADIENT_TOLERANCE * largest,
        "max_grad_difference": difference,
        "max_grad": largest,
    }


def largest_difference(one: str, other: str) -> tuple[float, float]:
    """Of two safetensors files: the largest difference of an entry, and the largest entry."""
    with safe_open(one, "np") as first, safe_open(other, "np") as second:
        if set(first.keys()) != set(second.keys()):
            odd = sorted(set(first.keys()) ^ set(second.keys()))
            raise PamKitError(f"the steps have gradients of different parameters: {', '.join(odd)}")
        largest, differences = [0.0], [0.0]
        for name in first.keys():
            entries = first.get_tensor(name)
            largest.append(_largest(entries))
            entries -= second.get_tensor(name)
            differences.append(_largest(entries))
    # Unlike Python's max, this one keeps what is not a number.
    return float(np.max(differences)), float(np.max(largest))


def _largest(entries: np.ndarray) -> float:
    """The largest absolute value; without a copy, since these are hundreds of megabytes."""
    return float(max(entries.max(initial=0), -entries.min(initial=0)))


def table(result: dict) -> list[str]:
    """The result as lines of Markdown."""
    sizes, variants = StepSizes(**result["sizes"]), result["variants"]
    regions = sizes.images * sizes.regions
    lines = [
        f"pictures: {sizes.images} of {sizes.image_size} pixels, regions: {regions}, questions: "
        f"{regions * sizes.questions}; decoder: {result['decoder_parameters'] / 1e6:.0f} M parameters, "
        f"{sizes.vocabulary:,} words; threads: {result['threads']}; medians of {result['repeats']}",
        "",
        "| step | seconds | CPU seconds | peak memory (MB) | held before (MB) |",
        "|---|---|---|---|---|",
    ]
    for variant, row in variants.items():
        lines.append(
            f"| {variant} | {row['seconds']:.2f} | {row['cpu_seconds']:.2f} | {row['peak_bytes'] / 1e6:,.0f} "
            f"| {row['held_bytes'] / 1e6:,.0f} |"
        )
    for name, ratio in result["ratios"].items():
        lines.append(f"| {name} | {ratio['seconds']:.2f} | {ratio['cpu_seconds']:.2f} | {ratio['peak_bytes']:.2f} | |")
    return [
        *lines,
        "",
        f"same_loss: {result['same_loss']}, same_gradients: {result['same_gradients']}, max_grad_difference: "
        f"{result['max_grad_difference']:.2g} (largest gradient {result['max_grad']:.2g})",
    ]


def _summary(runs: list[dict]) -> dict:
    medians = {name: median(run[name] for run in runs) for name in (*MEASURED, "held_bytes")}
    return medians | {"loss": runs[0]["loss"], "runs": runs}


def _ratios(runs: list[dict], against: list[dict]) -> dict:
    return {name: median(a[name] / b[name] for a, b in zip(runs, against, strict=True)) for name in MEASURED}


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured; 1: the variants' losses or gradients differ; 2: a step could not be taken."""
    parser = argparse.ArgumentParser(
        prog="python -m pam_kit.bench.step_benchmark",
        description="Time and peak memory of a training step on this machine: the kit's against a plain one.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    default = StepSizes()
    parser.add_argument("--images", type=_count, default=default.images, help="pictures of the batch")
    parser.add_argument("--regions", type=_count, default=default.regions, help="regions of each picture")
    parser.add_argument("--questions", type=_count, default=default.questions, help="questions about each region")
    parser.add_argument("--image-size", type=_count, default=default.image_size, help="side of a picture, in pixels")
    parser.add_argument("--hidden-size", type=_count, default=default.hidden_size, help="width of the decoder")
    parser.add_argument("--layers", type=_count, default=default.layers, help="layers of the decoder")
    parser.add_argument("--heads", type=_count, default=default.heads, help="attention heads of the decoder")
    parser.add_argument("--vocabulary", type=_count, default=default.vocabulary, help="words the decoder knows")
    parser.add_argument("--repeats", type=_count, default=3, help="steps of each variant")
    parser.add_argument("--json", action="store_true", help="one JSON object with every single step")
    options = vars(parser.parse_args(arguments))
    as_json, repeats = options.pop("json"), options.pop("repeats")
    try:
        result = benchmark(StepSizes(**options), repeats)
    except PamKitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=1) if as_json else "\n".join(table(result)))
    return 0 if result["same_loss"] and result["same_gradients"] else 1


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
