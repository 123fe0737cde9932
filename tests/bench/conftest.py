"""A benchmark that is run in this process, since each of its own would take seconds to start."""

from copy import deepcopy
from dataclasses import asdict

import pytest


@pytest.fixture(scope="session")
def recipe(tmp_path_factory, tiny_text) -> str:
    """The tiny one, with room for eight questions and for texts that tell models apart."""
    file = tmp_path_factory.mktemp("bench") / "tiny_bench.yaml"
    for own, other in (("vocab_size: 300", "vocab_size: 900"), ("max_length: 256, template: plain", "max_length: 512")):
        assert own in tiny_text
        tiny_text = tiny_text.replace(own, other)
    file.write_text(tiny_text, encoding="utf-8")
    return str(file)


@pytest.fixture(scope="session")
def built(recipe):
    """The model of the recipe; a test that changes it takes a copy."""
    from pam_kit.bench.models import chosen_model
    from pam_kit.bench.works import ModelChoice

    return chosen_model(ModelChoice(recipe=recipe))


@pytest.fixture
def chosen(built, recipe, monkeypatch):
    """Whoever asks for the model of the recipe gets a copy of it, which takes less time than building it anew."""
    from pam_kit.bench import measured_inference
    from pam_kit.bench.works import ModelChoice

    build = measured_inference.chosen_model
    known = ModelChoice(recipe=recipe)
    monkeypatch.setattr(measured_inference, "chosen_model", lambda c: deepcopy(built) if c == known else build(c))
    # Collecting what a long test run has left behind takes longer than the works.
    monkeypatch.setattr(measured_inference.gc, "collect", lambda: 0)


@pytest.fixture
def in_this_process(chosen, monkeypatch):
    """Works are done here; ``in_this_process(change)`` changes the model of the kit's path before anything is done.

    What they need may lie free in this process already, so a peak says nothing.
    """
    from pam_kit.bench import inference_benchmark, measured_inference

    changes, asked = [], []

    class Here:
        def __init__(self, choice, path, device):
            self.path, self.bench = path, measured_inference.Bench(choice, path, "cpu")
            for change in changes if path == "kit" else ():
                change(self.bench.model)

        def __enter__(self):
            self.facts = self.bench.facts()
            return self

        def __exit__(self, *_):
            pass

        def time(self, work, outputs=None, with_roofline=False):
            asked.append((self.path, "time", work))
            return asdict(self.bench.time(work, outputs, with_roofline))

        def memory(self, work):
            asked.append((self.path, "memory", work))
            return asdict(self.bench.memory(work)) | {"peak_mb": {"kit": 3.0, "plain": 4.0}[self.path]}

    # It would hold for all that is still to come in this process.
    monkeypatch.setattr(measured_inference, "give_back_freed", lambda: None)
    monkeypatch.setattr(inference_benchmark, "PathWorker", Here)

    def change_kit(change):
        changes.append(change)

    change_kit.asked = asked
    return change_kit


@pytest.fixture
def steps_in_this_process(monkeypatch):
    """Steps are taken here rather than in processes of their own, each of which would take seconds to start.

    What such a step needs may lie free in this process already, so its peak says nothing.
    """
    from pam_kit.bench import measured_step, step_benchmark

    class Here:
        def __init__(self, variant, sizes, folder):
            self.variant, self.sizes, self.folder = variant, sizes, f"{folder}/features"

        def __enter__(self):
            if self.variant == step_benchmark.KEEP:
                measured_step.keep(self.sizes, self.folder)
                self.facts = {}
            else:
                self.step = measured_step.Step(self.variant, self.sizes, self.folder)
                self.facts = self.step.facts()
            return self

        def __exit__(self, *_):
            pass

        def take(self, gradients=None):
            return asdict(self.step.take(gradients)) | {"peak_bytes": {"plain": 4e6}.get(self.variant, 3e6)}

    monkeypatch.setattr(step_benchmark, "StepWorker", Here)
