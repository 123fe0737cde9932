"""Throughput against a clock that the test moves: closed-form rates, what is counted, when it is logged."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.profilers import PassThroughProfiler

from pam_kit.training.module import StepFacts
from pam_kit.training.throughput import DataWait, Throughput, peak_memory_mib, summary

WAIT = "[_TrainingEpochLoop].train_dataloader_next"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Module:
    """Takes what is logged, as a LightningModule does."""

    def __init__(self):
        self.facts, self.lines, self.bar = None, [], []

    def log_dict(self, values):
        self.lines.append(dict(values))

    def log(self, name, value, prog_bar, logger):
        assert prog_bar and not logger
        self.bar.append((name, value))


class Run:
    """A training loop without a model: every micro-batch waits 1 s for its data and computes for 3 s."""

    def __init__(self, log_every=2, world_size=1, profiler=None):
        self.clock, self.module, self.said = Clock(), Module(), []
        strategy = SimpleNamespace(root_device=torch.device("cpu"), reduce=self.reduce)
        self.world_size = world_size
        self.trainer = SimpleNamespace(
            global_step=0, strategy=strategy, is_global_zero=True, profiler=profiler or PassThroughProfiler()
        )
        self.throughput = Throughput(log_every, self.said.append, self.clock)
        self.throughput.setup(self.trainer, self.module, "fit")

    def reduce(self, value, reduce_op):
        """Of equal devices."""
        return {"sum": value * self.world_size, "max": value}[reduce_op]

    def start(self, step=0):
        self.trainer.global_step = step
        self.throughput.on_train_start(self.trainer, self.module)

    def micro_batch(self, facts, steps=True, rate=0.1):
        profiler = self.trainer.profiler
        with profiler.profile(WAIT):
            self.clock.now += 1
        with profiler.profile("run_training_batch"):
            self.clock.now += 3
            self.module.facts = facts
            if steps:
                groups = [{"name": "decoder", "lr": rate}, {"name": "decoder", "lr": rate}, {"lr": 2 * rate}]
                self.throughput.on_before_optimizer_step(
                    self.trainer, self.module, SimpleNamespace(param_groups=groups)
                )
                self.trainer.global_step += 1
        self.throughput.on_train_batch_end(self.trainer, self.module, None, None, 0)

    def end(self):
        self.throughput.on_train_end(self.trainer, self.module)
        self.throughput.on_fit_end(self.trainer, self.module)


def test_rates_are_means_over_the_steps_since_the_last_log():
    run = Run()
    run.start()
    run.micro_batch(StepFacts(4, 100, 10), rate=0.2)
    assert not run.module.lines
    run.micro_batch(StepFacts(2, 60, 6), rate=0.1)
    (line,) = run.module.lines
    memory = line.pop("memory/peak_mib")
    assert memory > 1
    assert line == {
        "throughput/samples_per_second": 6 / 8,
        "throughput/tokens_per_second": 160 / 8,
        "throughput/supervised_tokens_per_second": 16 / 8,
        "throughput/seconds_per_step": 4,
        "throughput/data_wait_share": 1 / 4,
        "learning_rate/decoder": 0.1,
        "learning_rate/2": 0.2,
    }
    assert run.module.bar == [("samples/s", 6 / 8)]
    run.micro_batch(StepFacts(1, 1, 1))
    run.micro_batch(StepFacts(1, 1, 1))
    assert run.module.lines[1]["throughput/samples_per_second"] == 2 / 8


def test_micro_batches_add_up_to_a_step():
    run = Run(log_every=1)
    run.start()
    for steps in (False, False, True, False, False, True):
        run.micro_batch(StepFacts(1, 10, 1), steps)
    assert [line["throughput/seconds_per_step"] for line in run.module.lines] == [12, 12]
    assert [line["throughput/tokens_per_second"] for line in run.module.lines] == [30 / 12] * 2


def test_all_devices_count():
    run = Run(log_every=1, world_size=8)
    run.start()
    run.micro_batch(StepFacts(2, 20, 2))
    assert run.module.lines[0]["throughput/samples_per_second"] == 8 * 2 / 4
    assert run.module.lines[0]["throughput/data_wait_share"] == 1 / 4
    run.end()
    assert run.said == ["1 steps in 0:00:04, 4 samples/s"]


def test_the_last_line_counts_the_steps_since_the_last_log_and_none_before_a_resumption():
    run = Run(log_every=4)
    run.start(step=3)
    for _ in range(4):
        run.micro_batch(StepFacts(4, 40, 4))
    run.clock.now += 16
    run.end()
    assert [line["throughput/seconds_per_step"] for line in run.module.lines] == [4]
    assert run.said == ["4 steps in 0:00:32, 0.5 samples/s"]


def test_a_resumed_run_that_has_nothing_to_do_says_nothing():
    run = Run()
    run.start(step=2)
    run.end()
    assert not run.said


def test_a_profiler_of_the_trainers_own_is_left_in_place():
    own = DataWait()
    run = Run(log_every=1, profiler=own)
    assert run.trainer.profiler is own
    run.start()
    run.micro_batch(StepFacts(1, 1, 1))
    assert "throughput/data_wait_share" not in run.module.lines[0]


def test_waiting_is_told_from_all_else():
    clock = Clock()
    wait = DataWait(clock)
    for action, seconds in ((WAIT, 2), ("run_training_batch", 5), (WAIT, 0.5)):
        with wait.profile(action):
            clock.now += seconds
    assert wait.seconds == 2.5


@pytest.mark.parametrize(
    ("measured", "line"),
    [
        ((400, 750.0, 6400), "400 steps in 0:12:30, 8.53 samples/s"),
        ((12000, 90061.0, 180122000), "12,000 steps in 25:01:01, 2,000 samples/s"),
    ],
)
def test_the_line_at_the_end(measured, line):
    assert summary(*measured) == line


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc tells the resident set only on Linux")
def test_peak_memory_without_an_accelerator_is_the_largest_resident_set():
    status = Path("/proc/self/status").read_text()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak_memory_mib(torch.device("cpu")) == pytest.approx(kib / 1024, rel=0.02)


def test_peak_memory_of_a_cuda_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: device.index * 3 * 2**20)
    assert peak_memory_mib(torch.device("cuda", 2)) == 6
