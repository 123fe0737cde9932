"""A path in a process of its own: what it measures, and what it says where it cannot."""

import numpy as np
import pytest

from pam_kit.bench.inference_benchmark import PathWorker
from pam_kit.bench.workers import Worker
from pam_kit.bench.works import ModelChoice, Work
from pam_kit.errors import PamKitError


def test_a_process_times_works_and_then_takes_their_memory(recipe, tmp_path):
    work, file = Work(regions=2, questions=2, max_new_tokens=3), str(tmp_path / "found.npz")
    with PathWorker(ModelChoice(recipe=recipe, overrides=("decoder.num_layers=1",)), "plain", "cpu") as worker:
        assert worker.facts["device"] == "CPU" and worker.facts["vocabulary"] == 900
        timing = worker.time(work, file)
        assert timing["seconds"] > 0 and timing["tokens"] == 2 * 2 * 3 and timing["counts"]["pictures"] == 2
        memory = worker.memory(work)
        assert memory["held_mb"] > 100 and memory["peak_mb"] >= 0
        with pytest.raises(PamKitError, match="5 questions"):
            worker.ask(what="time", work={"regions": 2, "questions": 5}, outputs=None)
    with np.load(file) as found:
        assert found["texts"].shape == (4,)
    assert worker._process.returncode is not None


def test_a_run_that_is_not_there_is_told(tmp_path):
    with (
        pytest.raises(PamKitError, match="nowhere"),
        PathWorker(ModelChoice(checkpoint=str(tmp_path / "nowhere")), "kit", "cpu") as worker,
    ):
        _ = worker.facts


def test_a_process_that_breaks_says_what_it_last_said():
    with (
        pytest.raises(PamKitError, match="measures the mill failed with exit status 1:\n.*pam_kit.no_such_room"),
        Worker("the mill", "pam_kit.no_such_room", {}) as worker,
    ):
        worker.ask(what="anything")
