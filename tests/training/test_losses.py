"""Mask losses against closed forms and torchvision; which candidates learn."""

import math

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from pam_kit.sections import LossWeights
from pam_kit.training.losses import bce_loss, dice_loss, focal_loss, mask_iou, mask_losses, weighted_sum


def random_masks(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * 3, (torch.rand(shape, generator=generator) < 0.4).float()


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_dice_by_hand():
    # p = 0.75, 0.5, 0.25, 0.5 against 1, 1, 0, 0: overlap 1.25, sums 2 and 2 -> 1 - 3.5 / 5.
    logits = torch.tensor([[logit(0.75), 0.0], [logit(0.25), 0.0]])
    target = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    torch.testing.assert_close(dice_loss(logits, target), torch.tensor(1 - 3.5 / 5))


def test_dice_of_certain_masks():
    target = torch.zeros(2, 4, 4)
    target[:, :2] = 1
    certain = torch.stack([target[0], 1 - target[0]]) * 80 - 40
    # Right: 1 - 17/17. Wrong: nothing of 8 + 8 overlaps, 1 - 1/17.
    torch.testing.assert_close(dice_loss(certain, target), torch.tensor([0.0, 16 / 17]))


def test_cross_entropy_by_hand():
    logits = torch.tensor([[[0.0, logit(0.9)], [logit(0.2), logit(0.5)]]])
    target = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    expected = -(math.log(0.5) + math.log(0.9) + math.log(0.8) + math.log(0.5)) / 4
    torch.testing.assert_close(bce_loss(logits, target), torch.tensor([expected]))


def test_focal_loss_is_torchvisions():
    logits, target = random_masks(3, 5, 8, 6)
    expected = sigmoid_focal_loss(logits, target, alpha=0.25, gamma=2.0, reduction="none").mean((-2, -1))
    torch.testing.assert_close(focal_loss(logits, target), expected)


def test_iou_by_hand():
    mask = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 0]], [[1, 1, 1, 1]]], dtype=torch.bool)
    target = torch.tensor([[[0, 1, 1, 0]], [[0, 0, 0, 0]], [[0, 0, 0, 1]], [[1, 1, 1, 1]]], dtype=torch.bool)
    torch.testing.assert_close(mask_iou(mask, target), torch.tensor([1 / 3, 1.0, 0.0, 1.0]))


def test_the_first_candidate_and_the_best_other_one_learn():
    target = torch.zeros(2, 1, 4, 4)
    target[:, :, :2] = 1
    sign = target * 2 - 1
    # Region 0: candidate 2 is best of the others although the first is better still; region 1: candidate 3.
    strength = torch.tensor([[5.0, -1.0, 2.0, 0.5], [-3.0, -1.0, 0.1, 4.0]])
    logits = (strength[..., None, None] * sign).requires_grad_()
    losses = mask_losses(logits, torch.zeros(2, 4), target, torch.tensor([True, True]))
    learning = torch.tensor([[1.0, 0, 1, 0], [1, 0, 0, 1]])
    for name, loss in (("dice", dice_loss), ("bce", bce_loss), ("focal", focal_loss)):
        each = loss(logits.detach(), target.expand_as(logits))
        torch.testing.assert_close(losses[name].detach(), (each * learning).sum() / 2)
    (losses["dice"] + losses["bce"] + losses["focal"]).backward()
    assert torch.equal((logits.grad.abs().amax((-2, -1)) > 0).float(), learning)


def test_a_single_candidate_learns_alone():
    logits, target = random_masks(3, 1, 4, 4)
    losses = mask_losses(logits, torch.zeros(3, 1), target, torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(losses["dice"], dice_loss(logits, target).mean())


def test_the_iou_head_learns_the_iou_of_every_candidate():
    target = torch.zeros(1, 1, 2, 2)
    target[..., 0, :] = 1
    predicted = torch.tensor([[0.9, 0.5, 0.0]], requires_grad=True)
    full, half, none = torch.ones(2, 2), torch.tensor([[1.0, -1], [-1, -1]]), -torch.ones(2, 2)
    logits = torch.stack([full, half, none])[None]  # IoU with the upper row: 1/2, 1/2, 0
    losses = mask_losses(logits, predicted, target, torch.tensor([True]))
    torch.testing.assert_close(losses["iou"].detach(), torch.tensor(0.4**2 / 3))
    losses["iou"].backward()
    torch.testing.assert_close(predicted.grad, torch.tensor([[2 * 0.4 / 3, 0.0, 0.0]]))


def test_regions_without_a_target_do_not_count():
    logits, target = random_masks(4, 3, 8, 8)
    target, has_target = target[:, :1], torch.tensor([False, True, False, True])
    some = mask_losses(logits, torch.zeros(4, 3), target, has_target)
    alone = mask_losses(logits[has_target], torch.zeros(2, 3), target[has_target], torch.tensor([True, True]))
    for name in ("dice", "bce", "focal"):
        torch.testing.assert_close(some[name], alone[name])


def test_without_any_target_the_losses_are_zero_but_connected():
    logits, target = random_masks(2, 3, 4, 4)
    logits.requires_grad_()
    losses = mask_losses(logits, torch.zeros(2, 3), target[:, :1], torch.tensor([False, False]))
    assert {name: float(loss.detach()) for name, loss in losses.items()} == dict(dice=0, bce=0, focal=0, iou=0)
    weighted_sum(losses, LossWeights()).backward()
    assert logits.grad is not None and not logits.grad.any()


def empty_second_target() -> tuple[torch.Tensor, torch.Tensor]:
    logits, target = random_masks(3, 4, 8, 8)
    target = target[:, :1].clone()
    target[1] = 0
    return logits, target


def test_an_empty_target_teaches_an_empty_mask_and_leaves_the_iou_head_alone():
    logits, target = empty_second_target()
    predicted = torch.rand(3, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    everywhere = torch.ones(3, dtype=torch.bool)
    losses = mask_losses(logits.requires_grad_(), predicted, target, everywhere)
    iou = mask_iou(logits > 0, target.expand_as(logits) > 0)
    expected = ((predicted - iou)[[0, 2]] ** 2).sum() / 12
    torch.testing.assert_close(losses["iou"], expected)
    losses["iou"].backward()
    assert not predicted.grad[1].any() and predicted.grad[[0, 2]].all()
    (losses["dice"] + losses["bce"] + losses["focal"]).backward()
    learning = logits.grad[1].flatten(1).any(1)
    assert learning[0] and learning.sum() == 2
    assert (logits.grad[1][learning] > 0).all(), "every pixel goes down"


def test_dice_of_an_empty_target():
    logits, target = torch.tensor([[[logit(0.75), 0.0]], [[-80.0, -80]]]), torch.zeros(2, 1, 2)
    torch.testing.assert_close(dice_loss(logits, target), torch.tensor([1 - 1 / 2.25, 0.0]))


def test_the_score_learns_whether_there_is_an_object():
    logits, target = empty_second_target()
    score = torch.tensor([logit(0.9), logit(0.2), logit(0.6)], requires_grad=True)
    losses = mask_losses(logits, torch.zeros(3, 4), target, torch.tensor([True, True, False]), score)
    torch.testing.assert_close(losses["objectness"].item(), -(math.log(0.9) + math.log(0.8)) / 2)
    losses["objectness"].backward()
    torch.testing.assert_close(score.grad, torch.tensor([-0.05, 0.1, 0.0]))
    none = mask_losses(logits, torch.zeros(3, 4), target, torch.zeros(3, dtype=torch.bool), score)
    assert none["objectness"] == 0 and none["objectness"].requires_grad
    assert "objectness" not in mask_losses(logits, torch.zeros(3, 4), target, torch.ones(3, dtype=torch.bool))


def test_the_sum_is_weighted_by_name():
    losses = {name: torch.tensor(value) for name, value in dict(text=2.0, dice=3.0, iou=5.0, alignment=7.0).items()}
    weights = LossWeights(text=1, dice=10, iou=100, alignment=0, bce=1e9, focal=1e9)
    assert weighted_sum(losses, weights) == pytest.approx(2 + 30 + 500)
