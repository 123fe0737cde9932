"""The score that says whether there is an object learns with the rest, where the backbone has it."""

import pytest
import torch

from pam_kit.training.module import RegionTrainer, _share
from pam_kit.training.steps import Packet, Shares

WITH_SCORE = "backbone.score_objects=true"


def step(tiny_recipe, tiny_model, batch, *overrides) -> tuple[RegionTrainer, dict[str, torch.Tensor]]:
    module = RegionTrainer(tiny_recipe("train.trainable=[backbone]", *overrides), tiny_model(*overrides), 2)
    losses = module._losses(batch)
    module.training_step(Packet(batch, []), 0).backward()
    return module, losses


@pytest.fixture
def batch(sample_batch):
    made = sample_batch((4, 2), 0)
    made.has_target[:] = True
    made.target_masks[1] = 0
    return made


def test_the_head_learns_from_prompts_at_nothing(tiny_recipe, tiny_model, batch):
    module, losses = step(tiny_recipe, tiny_model, batch, WITH_SCORE, "train.loss.objectness=1")
    assert losses["objectness"] > 0
    decoder = module.model.backbone.mask_decoder
    assert all(p.grad.any() for p in (decoder.obj_score_token.weight, decoder.pred_obj_score_head.layers[-1].weight))


def test_without_its_weight_the_head_stays_but_is_reached(tiny_recipe, tiny_model, batch):
    module, _ = step(tiny_recipe, tiny_model, batch, WITH_SCORE)
    grads = [p.grad for p in module.model.backbone.mask_decoder.pred_obj_score_head.parameters()]
    assert all(grad is not None and not grad.any() for grad in grads)


def test_without_a_head_there_is_no_such_loss(tiny_recipe, tiny_model, batch):
    _, losses = step(tiny_recipe, tiny_model, batch, "train.loss.objectness=1")
    assert losses and "objectness" not in losses


def test_it_is_one_of_the_masks_shares():
    """A step's mean is over all its regions with a target, however it is split."""
    assert _share(Shares(masks=0.25, alignment=1, text=1), "objectness") == 0.25
