"""What a run is trained on: the recipe's training sets, and the loader that draws optimiser steps from them."""

from functools import partial

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader

from pam_kit.data.mixture import Mixture
from pam_kit.data.prepare import Geometry
from pam_kit.data.schema import RegionDataset, has_videos
from pam_kit.data.training import EndlessPositions, TrainingView, collate_training
from pam_kit.errors import RecipeError
from pam_kit.registry import find
from pam_kit.sections import DATASET_SLOT, ComponentChoice, DataSection, Recipe
from pam_kit.training.module import RegionTrainer
from pam_kit.training.steps import Counts, StepBatches


def training_sets(recipe: Recipe) -> Mixture:
    """``data.train`` and the sets mixed in."""
    section = recipe.data
    chosen = [section.train, *(mixed.dataset for mixed in section.mixed_in.values())]
    mixed = [mixed.share for mixed in section.mixed_in.values()]
    shares = [1 - sum(mixed), *mixed]
    sets = [_build(choice) for choice in chosen]
    lengths = [_lengths(dataset, section) for dataset in sets]
    return Mixture(sets, shares, recipe.train.global_batch_size, recipe.seed, lengths)


def _lengths(dataset: RegionDataset, section: DataSection) -> np.ndarray | None:
    """How long the samples of a set are, where that is asked for and the set knows it."""
    if not section.group_by_length or not hasattr(dataset, "lengths"):
        return None
    return np.asarray(dataset.lengths(section.clip_frames), dtype=np.int64)


def step_batches(mixture: Mixture, task: RegionTrainer, trainer: lightning.Trainer, start: int) -> StepBatches:
    """Endless optimiser steps from position ``start`` on; each of the run's processes takes its own positions."""
    return StepBatches(
        _micro_batches(mixture, task, trainer, start),
        trainer.accumulate_grad_batches,
        task.counts,
        trainer.world_size,
        partial(_summed, trainer),
    )


def _micro_batches(mixture: Mixture, task: RegionTrainer, trainer: lightning.Trainer, start: int) -> DataLoader:
    recipe, geometry = task.recipe, Geometry.of(task.model.backbone)
    workers = recipe.data.num_workers
    return DataLoader(
        TrainingView(mixture, recipe.data, geometry, recipe.seed),
        batch_size=recipe.train.device_batch_size,
        sampler=EndlessPositions(start, trainer.world_size, trainer.global_rank),
        collate_fn=partial(collate_training, geometry=geometry),
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator().manual_seed(recipe.seed),
        worker_init_fn=_one_thread,
    )


def _summed(trainer: lightning.Trainer, counts: Counts) -> Counts:
    if trainer.world_size == 1:
        return counts
    row = torch.tensor(counts, dtype=torch.float64, device=trainer.strategy.root_device)
    return Counts(*(int(value) for value in trainer.strategy.reduce(row, reduce_op="sum")))


def _build(choice: ComponentChoice) -> RegionDataset:
    dataset = find(DATASET_SLOT, choice.name).build(**choice.arguments)
    if has_videos(dataset):
        raise RecipeError(
            [f"data: {choice.name} has whole videos, which are for evaluation; train on clips, such as micro_clips"]
        )
    return dataset


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
