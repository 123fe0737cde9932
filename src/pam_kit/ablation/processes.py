"""The runs of a study, one after the other or in several processes at once; a run that fails ends none but itself.

Every run has a process of its own, also where only one is at work: nothing of one is left to the next, and a crash of
it is an error in the table.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from pam_kit.ablation.chains import Run, run_folder
from pam_kit.ablation.execution import (
    FAILURE,
    LOG,
    RunFailed,
    execute,
    failure_of,
    is_finished,
    note_failure,
    seconds_of,
)

# What a run needs is loaded once, and every run's process is made from there.
_LOADED_ONCE = ["pam_kit.training.fit", "pam_kit.evaluation.evaluate"]


def carry_out(
    runs: Sequence[Run],
    out: Path,
    processes: int = 1,
    say: Callable[[str], None] = print,
    work: Callable[[Run, Path], None] = execute,
    ended: Callable[[Run], None] = lambda run: None,
) -> list[Run]:
    """Run all that is not finished, each as soon as the run it starts from is; returns those that have failed.

    Args:
        runs: in an order in which none comes before its parent.
        work: what is done to a run in a process of its own.
        ended: told of each run as it ends.
    """
    crew = _Crew(runs, out, say, work, ended)
    with _stopped_by_sigterm():
        try:
            while crew.waiting or crew.working:
                while len(crew.working) < processes and crew.start_next():
                    pass
                crew.take_finished(processes)
        finally:
            crew.stop()
    return [run for run in runs if not is_finished(run, out)]


class _Crew:
    def __init__(self, runs: Sequence[Run], out: Path, say, work, ended):
        self.runs, self.out, self.say, self.work, self.ended = runs, out, say, work, ended
        self.waiting = [run for run in runs if not is_finished(run, out)]
        self.done = len(runs) - len(self.waiting)
        self.working: dict[Any, tuple[Any, Run, float]] = {}  # by the process's sentinel
        self.keys = {run.key for run in self.waiting}
        self._methods: Any = multiprocessing.get_context(_method())
        if self.done:
            say(f"{self.done} of {len(runs)} runs are finished already")
        for run in self.waiting:
            (run_folder(out, run) / FAILURE).unlink(missing_ok=True)

    def start_next(self) -> bool:
        """Start a run that can be; False where none can."""
        for run in self.waiting:
            if run.parent is not None and run.parent.key in self.keys:
                continue
            self.waiting.remove(run)
            if run.parent is not None and not is_finished(run.parent, self.out):
                self._end(run, time.perf_counter())
                return True
            process = self._methods.Process(target=_in_process, args=(self.work, run, self.out), name=run.name)
            process.start()
            self.working[process.sentinel] = process, run, time.perf_counter()
            return True
        return False

    def take_finished(self, processes: int) -> None:
        """Wait until a process has ended."""
        for sentinel in wait(list(self.working)) if self.working else ():
            process, run, started = self.working.pop(sentinel)
            process.join()
            if process.exitcode and not failure_of(run, self.out):
                note_failure(run, self.out, _how_it_ended(process.exitcode))
            self._end(run, started)
            left = self._seconds_left(processes)
            if left is not None and (self.waiting or self.working):
                self.say(f"    about {_spoken(left)} left")

    def _end(self, run: Run, started: float) -> None:
        self.done += 1
        self.keys.discard(run.key)
        what = f"[{self.done}/{len(self.runs)}] {run.title}"
        error = failure_of(run, self.out)
        spent = _spoken(time.perf_counter() - started)
        self.say(f"{what}: finished in {spent}" if error is None else f"{what}: FAILED: {error}")
        self.ended(run)

    def _seconds_left(self, processes: int) -> float | None:
        """From how long runs of the same recipe took; None where none is known."""
        known: dict[str, list[float]] = {}
        for run in self.runs:
            if (seconds := seconds_of(run, self.out)) is not None:
                known.setdefault(run.recipe.name, []).append(seconds)
        if not known:
            return None
        means = {name: sum(values) / len(values) for name, values in known.items()}
        usual = sum(means.values()) / len(means)
        begun = [
            means.get(run.recipe.name, usual) - time.perf_counter() + start for _, run, start in self.working.values()
        ]
        left = [means.get(run.recipe.name, usual) for run in self.waiting] + [max(0.0, seconds) for seconds in begun]
        return sum(left) / min(processes, max(1, len(left)))

    def stop(self) -> None:
        """End what is still at work, as when the study is stopped."""
        for process, _, _ in self.working.values():
            process.terminate()
        for process, _, _ in self.working.values():
            process.join()


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM stops as Ctrl-C does, so that no run is left to go on alone. For the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _method() -> str:
    """A fork of a process that has torch loaded and has used nothing of it: quick, and safe with threads and CUDA."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.set_forkserver_preload(_LOADED_ONCE)
    return "forkserver"


def _in_process(work: Callable[[Run, Path], None], run: Run, out: Path) -> None:
    folder = run_folder(out, run)
    folder.mkdir(parents=True, exist_ok=True)
    # What the run and its own processes print.
    with open(folder / LOG, "a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        work(run, out)
    except RunFailed as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def _how_it_ended(status: int) -> str:
    return f"its process was killed by signal {-status}" if status < 0 else f"its process ended with status {status}"


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
