"""Predictions of benchmarks in several processes of this machine, each with a part and a GPU of its own. Torch-free."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from pam_kit.errors import PamKitError

_SECONDS = 0.2


def predict_in_processes(options: argparse.Namespace, checkpoint: str, out: Path) -> None:
    """Run ``options.processes`` parts of a call of ``pam-kit evaluate`` side by side and wait for them.

    Raises PamKitError that names the parts which ended with an error; what they predicted by then is kept.
    """
    count = options.processes
    running = {number: _started(options, checkpoint, out, number, count) for number in range(1, count + 1)}
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


def _started(options: argparse.Namespace, checkpoint: str, out: Path, number: int, count: int) -> subprocess.Popen:
    # -P: the folder that we are in may hold packages of its own.
    call = [sys.executable, "-P", "-m", "pam_kit.cli", "evaluate", checkpoint, *options.overrides]
    call += ["--benchmark", options.benchmark, "--data", options.data, "--out", str(out), "--no-score"]
    call += ["--prompt-type", options.prompt_type, "--shard", f"{number}/{count}"]
    for name in ("variant", "limit", "max_new_tokens", "frames", "stream_boxes", "pictures"):
        if value := getattr(options, name):
            call += [f"--{name.replace('_', '-')}", str(value)]
    if options.languages:
        call += ["--languages", ",".join(options.languages)]
    if options.device:
        call += ["--device", options.device]
    # Bars of progress stand below each other; cores are shared.
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = {"OMP_NUM_THREADS": threads} | os.environ
    environment |= {"LOCAL_RANK": str(number - 1), "TQDM_POSITION": str(number - 1)}
    return subprocess.Popen(call, env=environment)
