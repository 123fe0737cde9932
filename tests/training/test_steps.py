"""A step's losses are means over all it holds, however it is split into micro-batches and over devices."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

from pam_kit.contracts import Questions, RegionBatch
from pam_kit.errors import BrokenSample, PamKitError
from pam_kit.training.steps import Counts, Packet, Shares, StepBatches
from pam_kit.training.tally import LossTally


class Words:
    """A batch of answers, each of so many words, with a loss for each word."""

    def __init__(self, *losses: list[float]):
        self.losses = [value for answer in losses for value in answer]

    def out_of_shared_memory(self) -> "Words":
        return self


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
    shares, held = Shares(masks=0.0, alignment=0.0, text=1.0), Counts(text=1)
    assert packet == Packet(packet.batch, [], shares, last=True, asked_elsewhere=False, own=held, step=held)


def test_a_batch_without_a_sample_ends_the_run():
    broken = [BrokenSample("a.jsonl:3", "torn")]
    with pytest.raises(PamKitError, match="a.jsonl:3.*pam-kit data check"):
        list(StepBatches([(None, broken)], 1, count))


@pytest.mark.parametrize("devices", [1, 2])
def test_who_is_asked_elsewhere(devices):
    """Of two steps, the first has words in one of its micro-batches, the second has none."""
    loader = [(Words(*losses), []) for losses in ([[1.0]], [], [], [])]
    packets = list(StepBatches(loader, 2, count, devices, lambda own: own))
    assert [packet.asked_elsewhere for packet in packets] == [False, True, devices > 1, devices > 1]
    assert [packet.own.text for packet in packets] == [1, 0, 0, 0]
    assert [packet.step.text for packet in packets] == [1, 1, 0, 0]


@contextmanager
def open_files_at_most(more: int) -> Iterator[None]:
    """So many more files than now may be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open(os.devnull, os.O_RDONLY)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_step_of_many_micro_batches_holds_no_file_open(sample_batch):
    """The tensors that a worker sends lie in shared memory, each in a file of its own, nine of them in a batch."""
    batch = sample_batch(regions=(1,), questions=1)
    loader = DataLoader([(batch, [])] * 64, batch_size=None, collate_fn=_as_it_is, num_workers=1)
    arrived = next(iter(loader))[0]
    assert arrived.images.is_shared() and arrived.prompts.points.is_shared(), "else the test says nothing"
    del arrived
    with open_files_at_most(more=100):
        packets = list(StepBatches(loader, 64, lambda batch: Counts(text=len(batch.questions))))
    assert len(packets) == 64
    for packet in packets:
        found = packet.batch
        tensors = (found.images, found.prompts.points, found.questions.region_index, found.target_masks)
        assert not any(tensor.is_shared() for tensor in tensors)
        assert torch.equal(found.images, batch.images) and found.questions.answers == batch.questions.answers


def _as_it_is(item):
    return item


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
        tally.add({"loss": torch.tensor(loss), "text": torch.tensor(2 * loss)})
        tally.add_questions(torch.full((len(tasks),), loss), tasks)
    assert {name: value.item() for name, value in tally.own().items()} == {"loss": 1.5, "text": 3.0}
    alone = {name: value.item() for name, value in tally.means().items()}
    assert alone == {"loss/text": 3.0, "loss/text/recognize": 1.5, "loss/text/caption": 2.0}
    # Another device with the same sums: means stay.
    tally.add_questions(torch.tensor([2.0, 4.0]), ["caption", "caption"])
    both = tally.means(lambda row, reduce_op: 2 * row)
    assert {name: value.item() for name, value in both.items()} == {"loss/text": 3.0, "loss/text/caption": 3.0}
    tally.clear()
    assert tally.is_empty()
    tally.add({"loss": torch.tensor(5.0)})
    tally.add({})
    assert ({name: value.item() for name, value in tally.own().items()}, tally.means()) == ({"loss": 2.5}, {})
