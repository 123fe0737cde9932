"""The LightningModule: one training step, who learns, at which rate."""

from dataclasses import dataclass, replace
from functools import partial

import lightning
import torch
from torch import Tensor

from pam_kit.contracts import ClipBatch, Questions, RegionBatch, RegionFeatures, TextLoss
from pam_kit.errors import PamKitError
from pam_kit.model import RegionVLM
from pam_kit.sections import Recipe
from pam_kit.tasks import TASKS
from pam_kit.training.feature_cache import FeatureCache
from pam_kit.training.layers import prepare_layers
from pam_kit.training.losses import mask_losses, weighted_sum
from pam_kit.training.stage import cosine_with_warmup, freeze_all_but, keep_frozen_parts_in_eval, parameter_groups
from pam_kit.training.steps import Batch, Counts, Packet, Shares
from pam_kit.training.tally import LossTally

MASK_LOSSES = ("dice", "bce", "focal", "iou", "objectness")


@dataclass(frozen=True)
class StepFacts:
    """What the last micro-batch held on this device: pictures or clips, positions in the decoder, supervised tokens."""

    samples: int
    tokens: int
    supervised_tokens: int


class RegionTrainer(lightning.LightningModule):
    """Trains the parts of a RegionVLM that the recipe names.

    Args:
        recipe: the whole run.
        model: built from it.
        max_steps: optimiser steps of this stage, on which the schedule ends.
        clips: whether the training data have clips; where not, what only clips reach is frozen.
    """

    def __init__(self, recipe: Recipe, model: RegionVLM, max_steps: int, clips: bool = False):
        super().__init__()
        self.recipe, self.model, self.max_steps = recipe, model, max_steps
        self.parts = freeze_all_but(model, recipe.train.trainable, clips)
        self.features = FeatureCache.of(recipe, model)
        self.facts = StepFacts(0, 0, 0)
        self._tally = LossTally(tasks=TASKS)
        self._prepared = False
        # Lightning leaves the modes as it finds them.
        self.train()

    def configure_model(self) -> None:
        """Lightning calls this when the devices are known, ahead of the optimiser, and may do so again."""
        if not self._prepared:
            self._prepared = True
            prepare_layers(self, self.model, self.recipe.train)

    def train(self, mode: bool = True):
        super().train(mode)
        keep_frozen_parts_in_eval(self.model)
        return self

    def training_step(self, packet: Packet, index: int) -> Tensor | None:
        batch = _asking_for_show(packet.batch) if packet.asked_elsewhere else packet.batch
        _refuse_unsupervised(batch)
        self.facts = StepFacts(_samples(batch), 0, 0)
        losses = self._losses(batch)
        if "text" in losses:
            self.facts = replace(self.facts, supervised_tokens=packet.own.text)
        if _teaches_nothing(losses, packet):
            self._refuse_idleness()
        shared = {name: loss * _share(packet.shares, name) for name, loss in losses.items()}
        loss = weighted_sum(shared, self.recipe.train.loss) if shared else None
        self._tally.add({} if loss is None else {"loss": loss, **shared})
        if packet.last:
            self._end_step()
        return loss

    def counts(self, batch: Batch) -> Counts:
        """What the losses of a batch are means over."""
        asked = self._asked(batch.questions)
        return Counts(
            masks=int(batch.has_target.sum()),
            alignment=int((self._told(batch).region_index >= 0).sum()),
            text=self.model.decoder.num_supervised_tokens(asked, self._prefix_lengths(batch)) if len(asked) else 0,
        )

    def _prefix_lengths(self, batch: Batch) -> list[int]:
        if isinstance(batch, ClipBatch):
            return [self.model.prefix_length(len(batch.read[clip])) for clip in batch.clip_index.tolist()]
        return [self.model.prefix_length()] * len(batch)

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        """Masks first, then the alignment of semantic tokens with words, then the decoder, as ``join_at`` says."""
        if isinstance(batch, ClipBatch):
            return self._clip_losses(batch)
        model, section = self.model, self.recipe.train
        regions = self._segment(batch)
        losses = self._mask_losses([regions], batch)
        if len(batch.questions) and self._joined("perceiver"):
            tokens = model.perceive(regions)
            aligned = tokens.semantic
            if section.alignment_tokens == "all":
                aligned = torch.cat([tokens.visual, tokens.semantic], dim=1)
            if section.loss.alignment and aligned.shape[1]:
                losses["alignment"] = model.decoder.align(aligned, self._told(batch))
            if section.loss.text and self._joined("decoder"):
                losses["text"] = self._text_loss(model.prefix(tokens), batch)
        return losses

    def _segment(self, batch: RegionBatch) -> RegionFeatures:
        if self.features is not None:
            return self.features.segment(self.model, batch)
        return self.model.segment(batch.images, batch.image_index, batch.prompts)

    def _clip_losses(self, batch: ClipBatch) -> dict[str, Tensor]:
        """As of pictures; the masks are those of the first frames, and semantic tokens are not aligned."""
        watch = None if self.features is None else partial(self.features.watch, self.model)
        regions, prefixes = self.model.read_clips(batch, watch)
        losses = self._mask_losses(regions, batch)
        if len(batch.questions) and self.recipe.train.loss.text and self._joined("decoder"):
            losses["text"] = self._text_loss(prefixes, batch)
        return losses

    def _mask_losses(self, regions: list[RegionFeatures], batch: Batch) -> dict[str, Tensor]:
        if not any(part.candidate_logits.requires_grad for part in regions):
            return {}
        # Of a decoder without a head for it, the score is a number.
        scored = all(part.object_score.requires_grad for part in regions)
        return mask_losses(
            torch.cat([part.candidate_logits for part in regions]),
            torch.cat([part.candidate_iou for part in regions]),
            batch.target_masks,
            batch.has_target,
            torch.cat([part.object_score for part in regions]) if scored else None,
        )

    def _text_loss(self, prefix, batch: Batch) -> Tensor:
        asked = self._asked(batch.questions)
        text: TextLoss = self.model.decoder(prefix, asked)
        self.facts = replace(self.facts, tokens=text.num_positions)
        self._tally.add_questions(text.per_question, asked.tasks)
        return text.loss

    def _asked(self, questions: Questions) -> Questions:
        """The questions that the decoder answers."""
        limit = self.recipe.train.decoder_questions
        return questions if limit is None else questions.first_of_each_region(limit)

    def _told(self, batch: Batch) -> Questions:
        """The questions whose answers the semantic tokens are aligned with."""
        told = [] if isinstance(batch, ClipBatch) else self.recipe.train.alignment_tasks or TASKS
        return batch.questions.of_tasks(told)

    def _end_step(self) -> None:
        if not self._tally.is_empty():
            self._log_step()
        self._tally.clear()

    def _log_step(self) -> None:
        """The step's loss, and its parts when it is time for a line in the log; all are means over the devices."""
        own = self._tally.own()
        # Asked once a step, since the answer waits for the device, and ahead of the optimiser.
        if not torch.isfinite(own["loss"]):
            raise PamKitError(
                f"the loss is {own.pop('loss').item()} at step {self.global_step}: "
                + ", ".join(f"{name} {value.item():.4g}" for name, value in own.items())
                + ". Lower train.learning_rate or train.gradient_clip, or use train.precision=32-true"
            )
        self.log("loss", own["loss"], prog_bar=True, sync_dist=True, batch_size=1)
        if (self.global_step + 1) % self.recipe.train.log_every == 0:
            reduce = None if self._trainer is None else self.trainer.strategy.reduce
            self.log_dict(self._tally.means(reduce), batch_size=1)

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


def _asking_for_show(batch: Batch) -> Batch:
    """The batch with a question whose share in the loss is zero: what the devices do together (sum up gradients, gather
    sharded layers) they have to do equally often. Its task is none, so that it is in no mean of the log either."""
    region = torch.tensor([0 if len(batch) else -1], device=batch.questions.region_index.device)
    return replace(batch, questions=Questions(region, ["?"], ["."], [""], [""]))


def _teaches_nothing(losses: dict[str, Tensor], packet: Packet) -> bool:
    """Whether the whole step has no loss, but for that of a question asked for show."""
    silent = packet.asked_elsewhere and not packet.step.text
    return not losses or (silent and losses.keys().isdisjoint(MASK_LOSSES))


def _samples(batch: Batch) -> int:
    return len(batch.frames if isinstance(batch, ClipBatch) else batch.images)


def _share(shares: Shares, loss: str) -> float:
    return shares.masks if loss in MASK_LOSSES else getattr(shares, loss)


def _refuse_unsupervised(batch: RegionBatch | ClipBatch) -> None:
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
