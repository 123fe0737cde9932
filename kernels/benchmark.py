"""``python -m pam_kit.kernels.benchmark``: the implementations of each operator timed on this machine's GPU.

An operator whose results are wrong here is not timed. Without a GPU nothing is timed at all: the table then holds the
least times that the peaks of an A100 and an H100 allow, and says so.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._functorch import config as functorch_config
from torch.utils._pytree import tree_leaves

from pam_kit.kernels.bars import draw_bars
from pam_kit.kernels.cards import CARDS, known_card
from pam_kit.kernels.cases import PROVIDERS, Case, Function, cases
from pam_kit.kernels.counting import Launch
from pam_kit.kernels.entries import OPERATORS
from pam_kit.kernels.gate import WrongResults, gate, is_float
from pam_kit.kernels.roofline import bound

MODES = ("forward", "backward", "both")
TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
Timer = Callable[[Callable[[], Any]], Sequence[float]]


@dataclass(frozen=True)
class Row:
    """One implementation in one mode. Times in microseconds: median, 20% and 80% quantiles, the card's least time."""

    operator: str
    case: str
    provider: str
    mode: str
    type: str
    median_us: float | None
    low_us: float | None
    high_us: float | None
    peak_mib: float | None
    bound_us: float | None
    share: float | None
    device: str
    torch: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table, and the plot if asked for; 1 when an operator was refused."""
    options = _parser().parse_args(arguments)
    chosen, refused = cases(options.operator or OPERATORS), list[str]()
    if not torch.cuda.is_available():
        said = "no CUDA device here: nothing is measured; the rows hold what the peaks of the cards allow"
        print(said, file=sys.stderr)
        rows = [row for case in chosen for row in analytic(case)]
    else:
        rows, refused = measured(chosen, options.mode or MODES, options.type)
    write(rows, options.csv)
    if options.plot:
        draw_bars(_bars(rows), options.plot, "microseconds, median" if torch.cuda.is_available() else "least time, us")
    for message in refused:
        print(message, file=sys.stderr)
    return 1 if refused else 0


def measured(chosen: Sequence[Case], modes: Sequence[str], kind: str) -> tuple[list[Row], list[str]]:
    """Rows of the operators that compute what they should, and why others were refused."""
    rows, refused = [], []
    for case in chosen:
        try:
            gate(case, "cuda", TYPES[kind])
        except WrongResults as error:
            refused.append(f"not timed: {error}")
            continue
        rows += list(timed(case, modes, kind, "cuda", gpu_timer))
    return rows, refused


def timed(case: Case, modes: Sequence[str], kind: str, device: str, timer: Timer) -> Iterator[Row]:
    """One row for each implementation and mode; modes with a backward pass only where the fused operator has one."""
    providers: Mapping[str, Function] = {**case.providers, "compiled": torch.compile(case.providers["view"])}
    for mode in modes if case.backward else [mode for mode in modes if mode == "forward"]:
        for name in (name for name in PROVIDERS if name in providers):
            inputs = case.inputs(device, TYPES[kind])
            # A backward pass is timed by itself, again and again, so a compiled one must not overwrite what it reads.
            with functorch_config.patch(donated_buffer=False):
                run = _runner(providers[name], inputs, mode)
                run()
                (low, median, high), peak = timer(run), _peak(run)
            least = _card_bound(_launches(case, mode))
            yield Row(
                case.operator, case.name, name, mode, kind, median, low, high, peak, least,
                least / median if least else None, _device_name(), torch.__version__,
            )  # fmt: skip


def analytic(case: Case) -> Iterator[Row]:
    """What the fused launches take at least on the cards that are known; no measurement."""
    for mode in MODES if case.backward else MODES[:1]:
        for name, card in CARDS.items():
            least = bound(_launches(case, mode), card) * 1e6
            device = f"analytic {name}"
            yield Row(case.operator, case.name, "triton", mode, "bfloat16", *(None,) * 4, least, None, device, "")


def gpu_timer(run: Callable[[], Any]) -> Sequence[float]:
    """20%, 50% and 80% quantiles in microseconds, the cache cleared before each run."""
    from triton.testing import do_bench

    return [1e3 * value for value in do_bench(run, quantiles=[0.2, 0.5, 0.8])]


def write(rows: Sequence[Row], to: Path | None) -> None:
    """As CSV into a file, or printed."""
    file = to.open("w", newline="", encoding="utf-8") if to else sys.stdout
    writer = csv.DictWriter(file, list(Row.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = asdict(row).items()
        writer.writerow({key: round(value, 3) if isinstance(value, float) else value for key, value in cells})
    if to:
        file.close()
        print(f"wrote {to}")


def _runner(function: Function, inputs: tuple[Any, ...], mode: str) -> Callable[[], Any]:
    """What is timed: a call without arguments."""
    if mode == "forward":
        return torch.no_grad()(lambda: function(*inputs))
    leaves = [value.requires_grad_() for value in inputs if is_float(value)]
    out = _floats(function(*inputs))
    upstream = [torch.ones_like(value) for value in out]
    if mode == "both":
        return lambda: torch.autograd.grad(_floats(function(*inputs)), leaves, upstream)
    return lambda: torch.autograd.grad(out, leaves, upstream, retain_graph=True)


def _floats(out: Any) -> list[Tensor]:
    return [value for value in tree_leaves(out) if isinstance(value, Tensor) and value.requires_grad]


def _peak(run: Callable[[], Any]) -> float | None:
    """Most memory in MiB beside what is there already."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / (1 << 20)


def _launches(case: Case, mode: str) -> list[Launch]:
    forward, backward = list(case.forward), list(case.backward or ())
    return {"forward": forward, "backward": backward, "both": forward + backward}[mode]


def _card_bound(work: Sequence[Launch]) -> float | None:
    """Microseconds on the card at hand, if its peaks are known."""
    card = known_card(_device_name())
    return bound(work, card) * 1e6 if card else None


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def _bars(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Group -> bar -> microseconds."""
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        value = row.bound_us if row.median_us is None else row.median_us
        name = row.provider if row.median_us is not None else row.device
        groups.setdefault(f"{row.operator}, {row.case}, {row.mode}", {})[name] = value or 0.0
    return groups


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pam_kit.kernels.benchmark", description=__doc__)
    parser.add_argument("operator", nargs="*", help=f"only these of {', '.join(OPERATORS)}")
    parser.add_argument("--mode", action="append", choices=MODES, help="only this pass; may be given again")
    parser.add_argument("--type", choices=TYPES, default="bfloat16", help="type of the tensors (default: %(default)s)")
    parser.add_argument("--csv", type=Path, help="the table as a file; it is printed otherwise")
    parser.add_argument("--plot", type=Path, help="bars as a PNG file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
