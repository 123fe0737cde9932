"""One training step: which questions the decoder answers, and which batches are refused."""

from dataclasses import replace

import pytest
import torch

from pam_kit.contracts import Questions, RegionBatch
from pam_kit.errors import PamKitError
from pam_kit.training.module import RegionTrainer
from pam_kit.training.steps import Packet

TEXT_ONLY = ("train.trainable=[decoder]", "train.loss.alignment=0")


def asking(batch: RegionBatch, about: list[int], answers: list[str]) -> RegionBatch:
    count = len(answers)
    asked = Questions(
        torch.tensor(about, dtype=torch.long), ["what?"] * count, answers, ["caption"] * count, ["zh"] * count
    )
    return replace(batch, questions=asked)


@pytest.fixture
def trainer_of(tiny_recipe, tiny_model):
    """``trainer_of(*overrides)`` -> RegionTrainer without a trainer around it, at step 0."""

    def build(*overrides: str) -> RegionTrainer:
        return RegionTrainer(tiny_recipe(*overrides), tiny_model(*overrides), max_steps=1)

    return build


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_the_decoder_answers_as_many_questions_of_a_region_as_it_is_given(trainer_of, sample_batch):
    batch = sample_batch(regions=(2, 1))
    everything = asking(batch, [0, 0, 1, 0], ["cup", "a red cup", "ball", "a green ball"])
    once = asking(batch, [0, 1], ["cup", "ball"])
    twice = asking(batch, [0, 0, 1], ["cup", "a red cup", "ball"])

    def loss(limit: str, asked: RegionBatch) -> float:
        task = trainer_of(*TEXT_ONLY, f"train.decoder_questions={limit}", "backbone.frozen=true")
        return task.training_step(Packet(asked, []), 0).item()

    assert loss("1", everything) == loss("null", once)
    assert loss("2", everything) == loss("null", twice) != loss("null", once)
    assert loss("3", everything) == loss("null", everything) != loss("null", twice)


def test_a_question_without_an_answer_is_refused(trainer_of, sample_batch):
    silent = asking(sample_batch(), [3, 1], ["cup", " \n"])
    with pytest.raises(
        PamKitError, match="no supervised token: task caption, language zh, region 1.*pam-kit data check"
    ):
        trainer_of().training_step(Packet(silent, []), 0)


def test_a_batch_that_teaches_nothing_is_refused(trainer_of, sample_batch):
    batch = asking(sample_batch(), [], [])
    nothing = replace(batch, has_target=torch.zeros_like(batch.has_target))
    with pytest.raises(PamKitError, match="neither texts nor masks; check data.tasks and data.languages"):
        trainer_of().training_step(Packet(nothing, []), 0)


def test_frozen_parts_are_in_eval_mode_from_the_start_and_for_good(trainer_of):
    """Lightning leaves the modes as it finds them, so a frozen part has to be put into eval mode."""
    task = trainer_of("train.trainable=[decoder]")
    for _ in range(2):
        modes = {name: part.training for name, part in task.model.named_children()}
        assert modes == {"backbone": False, "perceiver": False, "projector": False, "prefix": False, "decoder": True}
        assert not any(module.training for module in task.model.backbone.modules())
        task.eval().train()


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_tokens_are_aligned_with_the_chosen_tasks_only(trainer_of, sample_batch):
    only = ("train.trainable=[projector]", "train.loss.text=0", "train.loss.alignment=1", "backbone.frozen=true")
    both = asking(sample_batch(regions=(2,)), [0, 1], ["cup", "ball"])
    both.questions.tasks[1] = "explain"
    first = asking(both, [0], ["cup"])

    def loss(asked: RegionBatch, *more: str) -> float:
        return trainer_of(*only, *more).training_step(Packet(asked, []), 0).item()

    assert loss(both, "train.alignment_tasks=[caption]") == loss(first) != loss(both)
