"""The LightningModule: one training step, who learns, at which rate."""

import lightning
import torch

from pam_kit.contracts import RegionBatch
from pam_kit.errors import PamKitError
from pam_kit.model import RegionVLM
from pam_kit.sections import Recipe
from pam_kit.tasks import TASKS
from pam_kit.training.losses import mask_losses, weighted_sum
from pam_kit.training.stage import cosine_with_warmup, freeze_all_but, keep_frozen_parts_in_eval, parameter_groups


class RegionTrainer(lightning.LightningModule):
    """Trains the parts of a RegionVLM that the recipe names.

    Args:
        recipe: the whole run.
        model: built from it.
        max_steps: optimiser steps of this stage, on which the schedule ends.
    """

    def __init__(self, recipe: Recipe, model: RegionVLM, max_steps: int):
        super().__init__()
        self.recipe, self.model, self.max_steps = recipe, model, max_steps
        self.parts = freeze_all_but(model, recipe.train.trainable)
        # Lightning leaves the modes as it finds them.
        self.train()

    def train(self, mode: bool = True):
        super().train(mode)
        keep_frozen_parts_in_eval(self.model)
        return self

    def training_step(self, packet, index: int):
        batch, _broken = packet
        if batch is None:
            return None
        _refuse_unsupervised(batch)
        losses = self._losses(batch)
        if not losses:
            self._refuse_idleness()
            return None
        loss = weighted_sum(losses, self.recipe.train.loss)
        if not torch.isfinite(loss):
            raise PamKitError(
                f"the loss is {loss.item()} at step {self.global_step}: "
                + ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
                + ". Lower train.learning_rate or train.gradient_clip, or use train.precision=32-true"
            )
        values = {f"loss/{name}": value.detach() for name, value in losses.items()}
        self.log_dict(values, batch_size=len(batch))
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(batch))
        return loss

    def _losses(self, batch: RegionBatch) -> dict[str, torch.Tensor]:
        """Masks first, then the alignment of semantic tokens with words, then the decoder, as ``join_at`` says."""
        model, section = self.model, self.recipe.train
        losses: dict[str, torch.Tensor] = {}
        regions = model.segment(batch.images, batch.image_index, batch.prompts)
        if regions.candidate_logits.requires_grad:
            losses |= mask_losses(regions, batch.target_masks, batch.has_target)
        if len(batch.questions) and self._joined("perceiver"):
            tokens = model.perceive(regions)
            told = batch.questions.of_tasks(section.alignment_tasks or TASKS)
            if section.loss.alignment and tokens.semantic.shape[1] and len(told):
                losses["alignment"] = model.decoder.align(tokens.semantic, told)
            if section.loss.text and self._joined("decoder"):
                limit = section.decoder_questions
                asked = batch.questions if limit is None else batch.questions.first_of_each_region(limit)
                losses["text"] = model.decoder(model.prefix(tokens), asked).loss
        return losses

    def _refuse_idleness(self) -> None:
        if self._joined("perceiver") and self._joined("decoder"):
            raise PamKitError(
                "no loss reaches a part that learns: the backbone is frozen and train.loss.text and "
                "train.loss.alignment are 0, or the samples have no texts of data.tasks and data.languages"
            )

    def _joined(self, part: str) -> bool:
        return self.global_step >= self.recipe.train.join_at.get(part, 0.0) * self.max_steps

    def configure_optimizers(self):
        section = self.recipe.train
        optimizer = torch.optim.AdamW(parameter_groups(self.model, section), betas=tuple(section.betas))
        schedule = cosine_with_warmup(optimizer, self.max_steps, section.warmup_ratio)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _refuse_unsupervised(batch: RegionBatch) -> None:
    questions = batch.questions
    silent = [i for i, answer in enumerate(questions.answers) if not answer.strip()]
    if silent:
        i = silent[0]
        raise PamKitError(
            f"a training question has no supervised token: task {questions.tasks[i]}, language "
            f"{questions.languages[i]}, region {int(questions.region_index[i])} of its batch. "
            "Run `pam-kit data check` on the training set"
        )
    if not len(questions) and not bool(batch.has_target.any()):
        raise PamKitError("a training batch has neither texts nor masks; check data.tasks and data.languages")
