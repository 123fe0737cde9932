"""How fast a run is, what it waits for, how much memory it takes and at which rates it learns."""

import sys
import time
from collections.abc import Callable

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import PassThroughProfiler, Profiler

try:
    import resource
except ImportError:  # there is none on Windows
    resource = None  # type: ignore[assignment]

# How Lightning's training loop calls the fetching of a batch when it tells its profiler.
_NEXT_BATCH = "[_TrainingEpochLoop].train_dataloader_next"
_MIB = 2**20


class DataWait(Profiler):
    """Seconds that the training loop has waited for its batches, as it tells its profiler.

    Args:
        clock: seconds from an arbitrary moment.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        super().__init__()
        self.clock, self.seconds = clock, 0.0
        self._since = 0.0

    def start(self, action_name: str) -> None:
        if action_name == _NEXT_BATCH:
            self._since = self.clock()

    def stop(self, action_name: str) -> None:
        if action_name == _NEXT_BATCH:
            self.seconds += self.clock() - self._since


class Throughput(Callback):
    """Logs every ``log_every`` optimiser steps, as means over the steps since the last time:

    - ``throughput/samples_per_second``: pictures or clips; ``throughput/tokens_per_second``: positions that the
      decoder reads; ``throughput/supervised_tokens_per_second``: those of them that are learned. All three are sums
      over all devices, each of which counts its own.
    - ``throughput/seconds_per_step``: wall time of an optimiser step, everything included: a checkpoint or preview
      among the steps shows.
    - ``throughput/data_wait_share``: the share of that time in which the first process waits for its next batch, in
      [0, 1]. Much above 0 asks for more ``data.num_workers``. Left out where the Trainer was given a profiler.
    - ``memory/peak_mib``: the most that was allocated on a CUDA device since the process started, else the largest
      resident set of the process; the largest of all devices, in MiB. Left out where the system does not tell.
    - ``learning_rate/<part>``: of each parameter group, as the last step used it.

    The bar shows samples per second, and a line at the end sums up the run since it was started or resumed.

    Args:
        log_every: optimiser steps between two logs, as for the Trainer.
        say: takes the line at the end.
        clock: seconds from an arbitrary moment.
    """

    def __init__(
        self, log_every: int, say: Callable[[str], None] = print, clock: Callable[[], float] = time.perf_counter
    ):
        self.log_every, self.say, self.clock = log_every, say, clock
        self.data_wait = DataWait(clock)
        # The whole run, then the steps since the last log.
        self._run_started, self._seconds, self._steps, self._samples = 0.0, 0.0, 0, 0
        self._begin(0)
        self._rates: dict[str, float] = {}

    def setup(self, trainer, module, stage: str) -> None:
        if isinstance(trainer.profiler, PassThroughProfiler):
            trainer.profiler = self.data_wait

    def on_train_start(self, trainer, module) -> None:
        self._begin(trainer.global_step)
        self._run_started = self._started

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        # The schedule has moved on when the batch ends.
        self._rates = {
            f"learning_rate/{group.get('name', index)}": group["lr"]
            for index, group in enumerate(optimizer.param_groups)
        }

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        facts = module.facts
        for i, count in enumerate((facts.samples, facts.tokens, facts.supervised_tokens)):
            self._counts[i] += count
        step = trainer.global_step
        if step > self._first_step and step % self.log_every == 0:
            values = self._measured(trainer)
            module.log_dict(values | self._rates)
            module.log("samples/s", values["throughput/samples_per_second"], prog_bar=True, logger=False)

    def on_train_end(self, trainer, module) -> None:
        if trainer.global_step > self._first_step:
            self._measured(trainer)
        self._seconds = self.clock() - self._run_started

    def on_fit_end(self, trainer, module) -> None:
        if self._steps and trainer.is_global_zero:
            self.say(summary(self._steps, self._seconds, self._samples))

    def _begin(self, step: int) -> None:
        self._first_step, self._started, self._waited = step, self.clock(), self.data_wait.seconds
        self._counts = [0, 0, 0]

    def _measured(self, trainer) -> dict[str, float]:
        """Means over the steps since the last time; the next interval begins. Called by every process at once."""
        strategy = trainer.strategy
        # Reading the sums waits for the device, so that the time is that of finished work.
        counts = strategy.reduce(torch.tensor(self._counts, device=strategy.root_device), reduce_op="sum").tolist()
        seconds, steps = self.clock() - self._started, trainer.global_step - self._first_step
        samples, tokens, supervised = counts
        values = {
            "throughput/samples_per_second": samples / seconds,
            "throughput/tokens_per_second": tokens / seconds,
            "throughput/supervised_tokens_per_second": supervised / seconds,
            "throughput/seconds_per_step": seconds / steps,
        }
        if trainer.profiler is self.data_wait:
            values["throughput/data_wait_share"] = (self.data_wait.seconds - self._waited) / seconds
        peak = peak_memory_mib(strategy.root_device)
        if peak is not None:
            largest = strategy.reduce(torch.tensor(peak, device=strategy.root_device), reduce_op="max")
            values["memory/peak_mib"] = largest.item()
        self._steps += steps
        self._samples += samples
        self._begin(trainer.global_step)
        return values


def peak_memory_mib(device: torch.device) -> float | None:
    """The most that was allocated on a CUDA device, else the largest resident set of this process; in MiB, or None
    where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MIB
    if resource is None:
        return None
    # Bytes on macOS, KiB elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / _MIB


def summary(steps: int, seconds: float, samples: float) -> str:
    """One line on a whole run, for example ``400 steps in 0:12:30, 8.53 samples/s``."""
    whole, rate = round(seconds), samples / seconds
    spent = f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
    return f"{steps:,} steps in {spent}, {f'{rate:,.0f}' if rate >= 100 else f'{rate:.3g}'} samples/s"
