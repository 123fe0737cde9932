"""Who learns in a stage, at which rate, and when."""

import math

import pytest
import torch
from torch import nn

from pam_kit.errors import RecipeError
from pam_kit.sections import TRAINABLE_PARTS, TrainSection
from pam_kit.training.stage import cosine_with_warmup, freeze_all_but, keep_frozen_parts_in_eval, parameter_groups


class Part(nn.Module):
    """A matrix, a bias, a norm, and something that behaves otherwise in training."""

    def __init__(self, frozen: bool = False):
        super().__init__()
        self.linear, self.norm, self.dropout = nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout()
        self.frozen = frozen
        self.requires_grad_(not frozen)


class Model(nn.Module):
    def __init__(self, frozen_backbone: bool = False):
        super().__init__()
        for name in TRAINABLE_PARTS:
            setattr(self, name, Part(frozen_backbone and name == "backbone"))

    def clip_parameters(self) -> list[nn.Parameter]:
        return [self.prefix.linear.bias]


SIZE = 3 * 2 + 2 + 2 + 2


def test_only_the_named_parts_learn():
    model = Model()
    reports = freeze_all_but(model, ["decoder", "prefix"])
    learning = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {"decoder", "prefix"}
    assert [report.part for report in reports] == list(TRAINABLE_PARTS)
    assert {one.part: one.trained for one in reports if one.trained} == {"decoder": SIZE, "prefix": SIZE - 2}
    assert all(report.kind == "Part" and report.total == SIZE for report in reports)


@pytest.mark.parametrize("clips", [False, True])
def test_what_only_clips_reach_learns_only_from_clips(clips):
    model = Model()
    reports = freeze_all_but(model, ["prefix"], clips)
    assert model.prefix.linear.weight.requires_grad and model.prefix.linear.bias.requires_grad == clips
    assert sum(report.trained for report in reports) == (SIZE if clips else SIZE - 2)


def test_what_a_part_keeps_fixed_itself_stays_fixed():
    model = Model()
    model.decoder.linear.requires_grad_(False)
    reports = freeze_all_but(model, ["decoder"])
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        "decoder.norm.weight",
        "decoder.norm.bias",
    }
    assert next(report.trained for report in reports if report.part == "decoder") == 4


def test_a_frozen_backbone_cannot_be_trained():
    with pytest.raises(RecipeError, match="backbone, but all of it is frozen; set backbone.frozen=false"):
        freeze_all_but(Model(frozen_backbone=True), ["backbone", "decoder"])
    reports = freeze_all_but(Model(frozen_backbone=True), ["decoder"])
    assert [report.part for report in reports if report.trained] == ["decoder"]


def test_a_stage_must_train_something():
    with pytest.raises(RecipeError, match=r"train.trainable=\[\] leaves nothing to train"):
        freeze_all_but(Model(), [])
    model = Model()
    model.prefix.requires_grad_(False)
    with pytest.raises(RecipeError, match="leaves nothing to train"):
        freeze_all_but(model, ["prefix"])


def test_frozen_parts_neither_drop_out_nor_move_their_statistics():
    model = Model()
    freeze_all_but(model, ["projector"])
    model.train()
    keep_frozen_parts_in_eval(model)
    assert {name for name in TRAINABLE_PARTS if getattr(model, name).dropout.training} == {"projector"}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for name in TRAINABLE_PARTS:
        part = getattr(model, name)
        part.norm(part.linear(torch.rand(4, 3)))
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {"projector"}


def test_every_trained_parameter_is_in_one_group():
    model = Model()
    model.decoder.linear.bias.requires_grad_(False)
    freeze_all_but(model, ["backbone", "decoder", "prefix"])
    groups = parameter_groups(model, TrainSection(weight_decay=0.3))
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    torch.optim.AdamW(groups)


def test_only_matrices_decay():
    model = Model()
    freeze_all_but(model, ["decoder"])
    matrices, vectors = parameter_groups(model, TrainSection(weight_decay=0.3))
    assert matrices["weight_decay"] == 0.3 and [p.ndim for p in matrices["params"]] == [2]
    assert vectors["weight_decay"] == 0 and {p.ndim for p in vectors["params"]} == {1}


def test_parts_learn_at_their_own_rates():
    model = Model()
    freeze_all_but(model, list(TRAINABLE_PARTS))
    section = TrainSection(learning_rate=1e-3, learning_rate_factors={"backbone": 0.1, "prefix": 5.0})
    rates = {group["name"]: group["lr"] for group in parameter_groups(model, section)}
    others = dict.fromkeys(TRAINABLE_PARTS, 1e-3)
    assert rates == pytest.approx(others | {"backbone": 1e-4, "prefix": 5e-3})


def rates_of(max_steps: int, warmup_ratio: float, rate: float = 2.0) -> list[float]:
    """The rate of every step, and the one after the last."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    schedule = cosine_with_warmup(optimizer, max_steps, warmup_ratio)
    seen = []
    for _ in range(max_steps + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_the_rate_rises_and_falls_by_half_a_cosine():
    rates = rates_of(max_steps=100, warmup_ratio=0.2)
    assert rates[:20] == pytest.approx([2.0 * (step + 1) / 20 for step in range(20)])
    assert rates[20:] == pytest.approx([1 + math.cos(math.pi * step / 80) for step in range(81)])
    assert rates[20] == 2.0 and rates[60] == pytest.approx(1.0) and rates[100] == pytest.approx(0.0)


@pytest.mark.parametrize(("max_steps", "warmup_ratio"), [(1, 0.0), (1, 0.9), (2, 0.03), (10, 0.0)])
def test_short_runs_start_at_the_full_rate(max_steps, warmup_ratio):
    rates = rates_of(max_steps, warmup_ratio)
    assert rates[0] == 2.0 and all(0 <= rate <= 2.0 for rate in rates)


def test_a_quantised_decoder_cannot_be_trained_but_its_adapters_can(tiny_model, pretrained_decoder):
    _, folder = pretrained_decoder()
    chosen = (f"decoder.path={folder}", "decoder.vocab_size=320", "decoder.quantize=nf4")
    with pytest.raises(RecipeError, match="all of it is frozen; quantised weights cannot learn: set decoder.lora_rank"):
        freeze_all_but(tiny_model(*chosen), ["projector", "decoder"])
    reports = freeze_all_but(tiny_model(*chosen, "decoder.lora_rank=2"), ["decoder"])
    (decoder,) = [report for report in reports if report.part == "decoder"]
    assert 0 < decoder.trained < decoder.total
