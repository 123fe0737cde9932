"""The benchmark of a training step: all its variants take one and the same step, and say what it cost."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

from pam_kit.bench import measured_step, step_benchmark
from pam_kit.bench.plain_step import plain_loss
from pam_kit.bench.step_benchmark import MEASURED, VARIANTS, StepSizes, benchmark, largest_difference, main, table
from pam_kit.errors import PamKitError

TOY = StepSizes(images=2, regions=2, questions=2, image_size=64, hidden_size=32, layers=1, heads=2, vocabulary=600)


def test_all_variants_take_the_same_step(steps_in_this_process, capsys):
    options = [f"--{name.replace('_', '-')}={size}" for name, size in asdict(TOY).items()]
    assert main([*options, "--repeats=1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["sizes"] == asdict(TOY) and result["repeats"] == 1 and result["threads"] >= 1
    assert result["same_loss"] is True and result["same_gradients"] is True
    assert 0 <= result["max_grad_difference"] < 1e-4 < result["max_grad"]
    assert set(result["variants"]) == set(VARIANTS) == {"plain", "kit", "kept"}
    for row in result["variants"].values():
        assert [run["seconds"] > 0 and run["held_bytes"] > 0 for run in row["runs"]] == [True]
        assert row["loss"] == pytest.approx(result["variants"]["plain"]["loss"], rel=1e-5)
    assert {name: tuple(ratio) for name, ratio in result["ratios"].items()} == {
        "kit/plain": MEASURED,
        "kept/kit": MEASURED,
    }


def test_variants_take_turns_and_ratios_are_those_of_a_turn(monkeypatch):
    """A machine that is three times slower in one turn moves the medians of the seconds, not those of the ratios."""
    order, slowness = [], iter([1, 1, 1, 3, 3, 3, 1, 1, 1])
    costs = {"plain": 10.0, "kit": 4.0, "kept": 2.0}

    class Paced:
        facts = {"parameters": 7, "threads": 1}

        def __init__(self, variant, sizes, folder):
            self.variant = variant

        def __enter__(self):
            order.append((self.variant, "started"))
            return self

        def __exit__(self, *_):
            pass

        def take(self, gradients=None):
            order.append((self.variant, gradients is not None))
            seconds = costs[self.variant] * next(slowness)
            row = {"seconds": seconds, "cpu_seconds": seconds, "peak_bytes": 100 * costs[self.variant]}
            return row | {"held_bytes": 5, "loss": 2.0}

    monkeypatch.setattr(step_benchmark, "StepWorker", Paced)
    monkeypatch.setattr(step_benchmark, "largest_difference", lambda one, other: (0.0, 1.0))
    result = benchmark(TOY, repeats=3)
    turns = [[(v, "started") for v in VARIANTS] + [(v, turn == 0) for v in VARIANTS] for turn in range(3)]
    assert order == [("keep", "started"), *(one for turn in turns for one in turn)]
    assert (result["decoder_parameters"], result["threads"]) == (7, 1)
    assert result["ratios"]["kit/plain"] == {"seconds": 0.4, "cpu_seconds": 0.4, "peak_bytes": 0.4}
    assert result["ratios"]["kept/kit"]["seconds"] == 0.5
    assert result["variants"]["plain"]["seconds"] == 10.0 and len(result["variants"]["plain"]["runs"]) == 3


def test_a_step_in_a_process_of_its_own(tmp_path):
    with step_benchmark.StepWorker("kit", replace(TOY, images=1), str(tmp_path)) as worker:
        assert worker.facts["threads"] >= 1 and worker.facts["parameters"] > 0
        found = worker.take(str(tmp_path / "kit.safetensors"))
    assert found["seconds"] > 0 and found["cpu_seconds"] > 0 and found["peak_bytes"] > 1e6
    step = measured_step.Step("kit", replace(TOY, images=1), str(tmp_path))
    here = step.take(str(tmp_path / "here.safetensors"))
    assert found["loss"] == pytest.approx(here.loss, rel=1e-5)
    difference, largest = largest_difference(str(tmp_path / "kit.safetensors"), str(tmp_path / "here.safetensors"))
    assert difference < 1e-4 * largest


def test_the_plain_loss_counts_every_supervised_token_alike():
    """Of two questions, asked together and one by one."""
    model = measured_step.build_model(replace(TOY, images=1, questions=1))
    batch = measured_step.build_batch(replace(TOY, images=1, questions=1), model.backbone)
    together = plain_loss(model, batch)
    total, tokens = 0.0, 0
    for row in range(2):
        asked = batch.questions._chosen([row])
        count = len(model.decoder.tokenizer(asked.answers[0]).input_ids) + 1
        total, tokens = total + count * plain_loss(model, replace(batch, questions=asked)).item(), tokens + count
    assert together.item() == pytest.approx(total / tokens, rel=1e-5)


def test_another_step_is_told_apart(steps_in_this_process, monkeypatch, capsys):
    """A variant that leaves a question out has another loss, and the benchmark says so."""

    def lazy(model, batch):
        return plain_loss(model, replace(batch, questions=batch.questions.first_of_each_region(1)))

    monkeypatch.setattr(measured_step, "plain_loss", lazy)
    options = [f"--{name.replace('_', '-')}={size}" for name, size in asdict(TOY).items()]
    assert main([*options, "--repeats=1"]) == 1
    assert "same_loss: False, same_gradients: False" in capsys.readouterr().out


def test_the_largest_difference_of_gradients(tmp_path):
    one, other, odd, broken = (str(tmp_path / f"{name}.safetensors") for name in ("one", "other", "odd", "broken"))
    save_file({"a": torch.tensor([1.0, -4.0]), "b": torch.zeros(2, 2)}, one)
    save_file({"a": torch.tensor([1.0, -4.5]), "b": torch.full((2, 2), 0.25)}, other)
    save_file({"a": torch.zeros(2)}, odd)
    assert largest_difference(one, other) == (0.5, 4.0)
    save_file({"a": torch.tensor([1.0, -4.0]), "b": torch.tensor([[0.0, float("nan")], [0.0, 0.0]])}, broken)
    assert math.isnan(largest_difference(one, broken)[0]) and not largest_difference(broken, one)[0] <= 1e-4
    with pytest.raises(PamKitError, match="gradients of different parameters: b"):
        largest_difference(one, odd)


def test_making_the_optimisers_state_moves_no_weight():
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    start = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    measured_step._make_state(optimizer)
    assert all(torch.equal(start[name], tensor) for name, tensor in layer.state_dict().items())
    assert len(optimizer.state) == 2 and layer.weight.grad is None


def test_a_step_that_fails_says_why(tmp_path, capsys):
    assert main(["--image-size=65", "--repeats=1"]) == 2
    assert "multiples of 32" in capsys.readouterr().err


def test_the_table_is_markdown(steps_in_this_process):
    lines = table(benchmark(replace(TOY, images=1, questions=1), repeats=1))
    assert lines[0].startswith("pictures: 1 of 64 pixels, regions: 2, questions: 2; decoder: 0 M parameters, 600 words")
    assert [line.split("|")[1].strip() for line in lines[2:-2]] == ["step", "---", *VARIANTS, "kit/plain", "kept/kit"]
    assert len({line.count("|") for line in lines[2:-2]}) == 1
