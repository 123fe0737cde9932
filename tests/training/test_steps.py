"""A step's losses are means over all it holds, however it is split into micro-batches and over devices."""

from dataclasses import replace

import pytest
import torch

from pam_kit.contracts import Questions, RegionBatch
from pam_kit.errors import BrokenSample, PamKitError
from pam_kit.training.steps import Counts, Packet, Shares, StepBatches
from pam_kit.training.tally import LossTally


class Words:
    """A batch of answers, each of so many words, with a loss for each word."""

    def __init__(self, *losses: list[float]):
        self.losses = [value for answer in losses for value in answer]


def count(batch: Words) -> Counts:
    return Counts(text=len(batch.losses))


def weighted(batches: StepBatches) -> list[float]:
    """The loss of each step: the mean over micro-batches of mean loss times share."""
    steps, parts = [], []
    for packet in batches:
        parts.append(sum(packet.batch.losses) / len(packet.batch.losses) * packet.shares.text)
        if packet.last:
            steps.append(sum(parts) / len(parts))
            parts = []
    return steps


def test_the_loss_of_a_step_is_the_mean_over_its_words():
    drawn = [Words([1.0]), Words([2.0, 3.0, 4.0]), Words([5.0] * 4), Words([6.0, 0.0])]
    loader = [(batch, []) for batch in drawn]
    assert weighted(StepBatches(loader, 2, count)) == pytest.approx([10 / 4, 26 / 6])
    assert weighted(StepBatches(loader, 4, count)) == pytest.approx([36 / 10])


def test_devices_share_a_step():
    """Two devices of two micro-batches: the mean over both of their losses is the mean over all words."""
    devices = [[Words([1.0]), Words([2.0, 3.0, 4.0])], [Words([5.0] * 4), Words([6.0, 0.0])]]
    total = Counts(text=10)
    losses = [
        weighted(StepBatches([(b, []) for b in own], 2, count, world_size=2, sum_over_processes=lambda _: total))
        for own in devices
    ]
    assert sum(loss for (loss,) in losses) / 2 == pytest.approx(36 / 10)


def test_what_a_step_does_not_hold_has_no_share():
    (packet,) = StepBatches([(Words([1.0]), [])], 1, count)
    assert packet == Packet(packet.batch, [], Shares(masks=0.0, alignment=0.0, text=1.0), last=True)


def test_a_batch_without_a_sample_ends_the_run():
    broken = [BrokenSample("a.jsonl:3", "torn")]
    with pytest.raises(PamKitError, match="a.jsonl:3.*pam-kit data check"):
        list(StepBatches([(None, broken)], 1, count))


def asked(batch: RegionBatch, about: list[int], answers: list[str]) -> RegionBatch:
    size = len(answers)
    questions = Questions(torch.tensor(about), ["what?"] * size, answers, ["caption"] * size, ["en"] * size)
    return replace(batch, questions=questions)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_gradients_do_not_depend_on_the_split(tiny_recipe, tiny_model, sample_batch):
    """One batch of two pictures, against the two pictures apart: answers of 1 and of many words, 1 and 3 regions."""
    from pam_kit.training.module import RegionTrainer

    overrides = ("train.loss.alignment=0", "train.trainable=[backbone,perceiver,projector,prefix,decoder]")
    answers = ["cup", "A red cup that stands left of a ball.", "a ball", "a green ball on the table"]
    whole = asked(sample_batch(regions=(1, 3)), [0, 1, 2, 3], answers)
    first = replace(
        asked(whole, [0], answers[:1]),
        images=whole.images[:1],
        image_index=whole.image_index[:1],
        prompts=whole.prompts.of_rows(torch.tensor([0])),
        target_masks=whole.target_masks[:1],
        has_target=whole.has_target[:1],
    )
    second = replace(
        asked(whole, [0, 1, 2], answers[1:]),
        images=whole.images[1:],
        image_index=whole.image_index[1:] - 1,
        prompts=whole.prompts.of_rows(torch.tensor([1, 2, 3])),
        target_masks=whole.target_masks[1:],
        has_target=whole.has_target[1:],
    )

    def gradients(*batches: RegionBatch) -> dict[str, torch.Tensor]:
        task = RegionTrainer(tiny_recipe(*overrides), tiny_model(*overrides), max_steps=1).eval()
        for packet in StepBatches([(batch, []) for batch in batches], len(batches), task.counts):
            (task.training_step(packet, 0) / len(batches)).backward()
        return {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}

    together, apart = gradients(whole), gradients(first, second)
    assert together.keys() == apart.keys() and len(together) > 50
    for name, gradient in together.items():
        torch.testing.assert_close(apart[name], gradient, atol=2e-5, rtol=1e-4, msg=name)


def test_the_tally_is_a_mean_over_parts_and_devices():
    tally = LossTally(("recognize", "caption"))
    for loss, tasks in ((1.0, ["recognize"]), (2.0, ["recognize", "caption"])):
        tally.add(torch.tensor(loss), {"text": torch.tensor(2 * loss)})
        tally.add_questions(torch.full((len(tasks),), loss), tasks)
    assert tally.loss().item() == 1.5
    alone = {name: value.item() for name, value in tally.means().items()}
    assert alone == {"loss/text": 3.0, "loss/text/recognize": 1.5, "loss/text/caption": 2.0}
    # Another device with the same sums: means stay.
    tally.add_questions(torch.tensor([2.0, 4.0]), ["caption", "caption"])
    both = tally.means(lambda row, reduce_op: 2 * row)
    assert {name: value.item() for name, value in both.items()} == {"loss/text": 3.0, "loss/text/caption": 3.0}
    tally.clear()
    tally.add(torch.tensor(5.0), {})
    assert (tally.loss().item(), tally.means()) == (5.0, {})
