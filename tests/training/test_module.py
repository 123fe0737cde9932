"""One training step: which questions the decoder answers, and which batches are refused."""

from dataclasses import replace

import pytest
import torch

from pam_kit.contracts import ClipBatch, Questions, RegionBatch
from pam_kit.errors import PamKitError
from pam_kit.training.module import RegionTrainer
from pam_kit.training.steps import Packet, StepBatches

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


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_visual_tokens_can_be_aligned_too(trainer_of, sample_batch):
    """The loss is that of the decoder on all tokens; without semantic tokens it would be none."""
    options = ("train.trainable=[projector]", "train.loss.text=0", "train.loss.alignment=1", "backbone.frozen=true")
    batch = asking(sample_batch(regions=(2,)), [0, 1], ["cup", "ball"])
    for count in (0, 3):
        task = trainer_of(*options, "train.alignment_tokens=all", f"perceiver.num_semantic_tokens={count}")
        tokens = task.model.perceive(task.model.segment(batch.images, batch.image_index, batch.prompts))
        both = torch.cat([tokens.visual, tokens.semantic], dim=1)
        assert both.shape[1] == 4 + count
        expected = task.model.decoder.align(both, batch.questions)
        assert task.training_step(Packet(batch, []), 0).item() == pytest.approx(expected.item())
    with pytest.raises(PamKitError, match="no loss reaches"):
        trainer_of(*options, "perceiver.num_semantic_tokens=0").training_step(Packet(batch, []), 0)


FROZEN = ("backbone.frozen=true", "train.trainable=[perceiver,projector,prefix]")
LATE_DECODER = (*FROZEN, "train.loss.alignment=1", "train.join_at={decoder: 0.5}")


def steps(task: RegionTrainer, accumulation: int, *batches: RegionBatch, devices: int = 1) -> list[float | None]:
    """The losses of the micro-batches; their gradients are added up."""
    losses = []
    for packet in StepBatches([(batch, []) for batch in batches], accumulation, task.counts, devices):
        loss = task.training_step(packet, 0)
        if loss is not None:
            (loss / accumulation).backward()
        losses.append(None if loss is None else loss.item())
    return losses


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_micro_batch_without_text_is_no_end_of_its_step(trainer_of, sample_batch):
    """It adds nothing, and there is a word to learn in the step."""
    batch = sample_batch(regions=(2,))
    told, silent = asking(batch, [0], ["cup"]), asking(batch, [], [])
    task, alone = trainer_of(*FROZEN), trainer_of(*FROZEN)
    first, second = steps(task, 2, told, silent)
    (loss,) = steps(alone, 1, told)
    assert first == pytest.approx(2 * loss) and second == 0
    for found, expected in zip(task.model.parameters(), alone.model.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("devices", [1, 2])
def test_a_step_without_a_word_needs_masks_to_learn_from(trainer_of, sample_batch, devices):
    """Where there are masks, several devices reach all that learns in spite of it, with gradients of zero."""
    silent = asking(sample_batch(regions=(2,)), [], [])
    with pytest.raises(PamKitError, match="no loss reaches a part that learns"):
        steps(trainer_of(*FROZEN), 1, silent, devices=devices)
    task = trainer_of("train.trainable=[backbone,perceiver,projector,prefix,decoder]")
    (loss,) = steps(task, 1, silent, devices=devices)
    learning = {name: p for name, p in task.model.named_parameters() if p.requires_grad}
    reached = {name.split(".")[0] for name, p in learning.items() if p.grad is not None}
    assert loss > 0 and all(p.grad.eq(0).all() for n, p in learning.items() if n[0] != "b" and p.grad is not None)
    assert reached == ({"backbone"} if devices == 1 else {name.split(".")[0] for name in learning})


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_device_without_words_to_align_takes_part(trainer_of, sample_batch):
    """Its loss is zero, and connected with what others learn at the same time."""
    options = (*LATE_DECODER, "train.alignment_tasks=[recognize]")
    batch = sample_batch(regions=(2,))
    for untold in (asking(batch, [0], ["cup"]), asking(batch, [-1], ["cup"])):
        task = trainer_of(*options)
        assert steps(task, 1, untold) == [0]
        gradients = [p.grad for p in task.model.perceiver.parameters() if p.grad is not None]
        assert gradients and not any(gradient.any() for gradient in gradients)


def test_every_micro_batch_counts_in_the_logged_loss(trainer_of, sample_batch, monkeypatch):
    """Also one of which no loss comes, wherever in its step it is; a step of which none comes is not logged."""
    task, batch = trainer_of(*LATE_DECODER), sample_batch(regions=(2,))
    logged: list[float] = []
    monkeypatch.setattr(task, "log", lambda name, value, **how: logged.append(value.item()))
    monkeypatch.setattr(task, "log_dict", lambda values, **how: None)
    told = asking(batch, [0], ["cup"])
    monkeypatch.setattr(task, "_losses", lambda batch, made=task._losses: made(batch) if len(batch.questions) else {})
    silent = [Packet(asking(batch, [], []), [], last=last) for last in (False, True)]
    whole = [Packet(told, [], last=last) for last in (False, True)]
    pairs = ((whole[0], silent[1]), (silent[0], whole[1]), (whole[0], whole[1]), (silent[0], silent[1]))
    for pair in pairs:
        for packet in pair:
            task.training_step(packet, 0)
    after, before, full = logged
    assert after == before == pytest.approx(full / 2) and full > 0


def test_a_loss_that_is_not_finite_ends_its_step_before_the_optimiser(trainer_of, sample_batch):
    """Whichever micro-batch it came from."""
    task = trainer_of(*FROZEN)
    told = asking(sample_batch(regions=(2,)), [0], ["cup"])
    with torch.no_grad():
        weight = task.model.projector.get_parameter(next(iter(dict(task.model.projector.named_parameters()))))
        kept = weight.clone()
        weight.fill_(float("nan"))
        task.training_step(Packet(told, [], last=False), 0)
        weight.copy_(kept)
        with pytest.raises(PamKitError, match="the loss is nan at step 0: .*text nan.*Lower train.learning_rate"):
            task.training_step(Packet(told, [], last=True), 0)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_the_facts_of_a_step_are_what_the_decoder_reads(trainer_of, sample_batch):
    task, seen = trainer_of(*FROZEN), []
    batch = asking(sample_batch(regions=(2, 1)), [0, 2, -1], ["cup", "a red cup", "a green ball"])
    task.model.decoder.lm.register_forward_pre_hook(
        lambda module, inputs, named: seen.append(named["inputs_embeds"]), with_kwargs=True
    )
    steps(task, 1, batch)
    read = sum(int(rows.any(-1).sum()) for rows in seen)
    assert (task.facts.samples, task.facts.tokens) == (2, read)
    assert task.facts.supervised_tokens == task.counts(batch).text


def test_questions_about_no_region_are_each_their_own():
    asked = Questions(torch.tensor([-1, 0, -1, 0]), list("abcd"), [""] * 4, [""] * 4, [""] * 4)
    assert asked.first_of_each_region(1).questions == ["a", "b", "c"]


def test_what_is_cut_off_has_no_share(trainer_of, sample_batch):
    """Behind the prefixes of an image's and of a clip's regions, which differ in length."""
    task = trainer_of(*FROZEN, "decoder.max_positions=24")
    batch = asking(sample_batch(regions=(2,)), [0], ["a red cup that stands left of a ball"])
    clip = ClipBatch(
        frames=[torch.zeros(4, 3, 64, 64, dtype=torch.uint8)],
        read=[[0, 2]],
        clip_index=torch.tensor([0, 0]),
        prompts=batch.prompts,
        questions=batch.questions,
        target_masks=batch.target_masks,
        has_target=batch.has_target,
    )
    model, decoder = task.model, task.model.decoder
    for given, frames in ((batch, 0), (clip, 2)):
        prefix = [torch.zeros(model.prefix_length(frames), decoder.embed_dim)] * 2
        labels = decoder.sequences(prefix, batch.questions).labels
        assert task.counts(given).text == int((labels >= 0).sum())
    assert task.counts(batch).text > task.counts(clip).text
