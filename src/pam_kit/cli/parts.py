"""A verb whose work is divided among processes, each on a GPU of its own, started here or by a launcher. Torch-free."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from pam_kit.cli.arguments import positive
from pam_kit.errors import PamKitError
from pam_kit.inference.shard import Shard

_SECONDS = 0.2


def add_parts(group) -> None:
    """``--processes`` and ``--shard``."""
    group.add_argument("--processes", type=positive, metavar="N", help="so many processes, each on a GPU of its own")
    group.add_argument("--shard", type=_part, metavar="I/N", help="only part I of N; the part that ends last finishes")


def own_part(options: argparse.Namespace) -> Shard:
    """The part that ``--shard`` names, or else the launcher of this process; without either the whole."""
    return options.shard or Shard.from_environment()


def own_device(options: argparse.Namespace, shard: Shard) -> str | None:
    """Of several processes of a machine each takes the accelerator of its own number."""
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
    if options.device or local is None or shard.count == 1:
        return options.device
    import torch

    return f"cuda:{int(local) % torch.cuda.device_count()}" if torch.cuda.is_available() else None


def run_parts(call: Sequence[str], count: int) -> None:
    """Run ``pam-kit CALL --shard I/count`` for every part side by side and wait for them.

    Raises PamKitError that names the parts which ended with an error; what they made by then is kept.
    """
    running = {number: _started([*call, "--shard", f"{number}/{count}"], number, count) for number in _numbers(count)}
    failed: list[int] = []
    try:
        while running:
            time.sleep(_SECONDS)
            for number, process in list(running.items()):
                if process.poll() is not None:
                    failed += [number] if process.returncode else []
                    del running[number]
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    if failed:
        parts = ", ".join(f"{number}/{count}" for number in sorted(failed))
        raise PamKitError(f"part {parts} ended with an error (see above); the same call goes on where it stopped")


def _numbers(count: int) -> range:
    return range(1, count + 1)


def _started(call: list[str], number: int, count: int) -> subprocess.Popen:
    # Bars of progress stand below each other; cores are shared.
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = {"OMP_NUM_THREADS": threads} | os.environ
    environment |= {"LOCAL_RANK": str(number - 1), "TQDM_POSITION": str(number - 1)}
    # -P: the folder that we are in may hold packages of its own.
    return subprocess.Popen([sys.executable, "-P", "-m", "pam_kit.cli", *call], env=environment)


def _part(text: str) -> Shard:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; expected I/N with I from 1 to N, as in 2/8")
    return Shard(int(number), int(count))
