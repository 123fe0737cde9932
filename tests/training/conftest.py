"""Runs of two processes on a CPU (gloo): as torchrun or SLURM would start them, but forked, so that nothing is imported
twice."""

import faulthandler
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

TIME_LIMIT = 120  # seconds


def torchrun(rank: int, port: int) -> dict[str, str]:
    """What torchrun sets on one machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }


def slurm(rank: int, port: int) -> dict[str, str]:
    """What srun sets on two nodes of one task each."""
    return {
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "2",
        "SLURM_PROCID": str(rank),
        "SLURM_NODEID": str(rank),
        "SLURM_LOCALID": "0",
        "SLURM_NODELIST": "127.0.0.1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


LAUNCHERS = {"torchrun": torchrun, "slurm": slurm}


@pytest.fixture
def in_processes(tmp_path):
    """``in_processes(work, count=2, launcher="torchrun")``: ``work(rank)`` in so many forked processes.

    Fails with what they wrote where one fails, or hangs. A single process has no launcher.
    """
    if torch.cuda.is_initialized():
        pytest.skip("a process that has used CUDA cannot be forked")

    def run(work: Callable[[int], None], count: int = 2, launcher: str = "torchrun") -> None:
        port = _free_port()
        environments = [LAUNCHERS[launcher](rank, port) if count > 1 else {} for rank in range(count)]
        _in_processes([(one, partial(work, rank)) for rank, one in enumerate(environments)], tmp_path)

    return run


def _in_processes(jobs: list[tuple[dict[str, str], Callable[[], None]]], folder: Path) -> None:
    outputs = [folder / f"process-{number}.txt" for number in range(len(jobs))]
    threads = torch.get_num_threads()
    # A child that inherits a pool of threads waits for threads that it does not have.
    torch.set_num_threads(1)
    try:
        children = [_forked(*job, output) for job, output in zip(jobs, outputs, strict=True)]
    finally:
        torch.set_num_threads(threads)
    failed = _failed(children)
    written = "\n".join(f"--- {output.name}\n{output.read_text()[-8000:]}" for output in outputs)
    assert not failed, f"{failed}\n{written}"


def _forked(environment: dict[str, str], work: Callable[[], None], output: Path) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        # One that hangs says where.
        faulthandler.dump_traceback_later(TIME_LIMIT - 5, file=sys.stderr)
        # They share the CPU, whatever else the machine has.
        os.environ.update(environment, CUDA_VISIBLE_DEVICES="")
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _failed(children: list[int]) -> str:
    """Waits for the children; what went wrong. One that fails takes the others with it, as a launcher would."""
    end, running, said = time.monotonic() + TIME_LIMIT, set(children), ""
    while running and not said:
        for child in list(running):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                running.remove(child)
                said = said or (f"a process ended with {os.waitstatus_to_exitcode(status)}" if status else "")
        if running and time.monotonic() > end:
            said = f"not done after {TIME_LIMIT} s"
        time.sleep(0.01)
    for child in running:
        # Time to say what it waited for.
        time.sleep(0.5)
        os.kill(child, 9)
        os.waitpid(child, 0)
    return said


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
