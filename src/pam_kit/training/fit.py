"""A recipe becomes a run folder with a trained model in it."""

import math
import os
from functools import partial
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader

from pam_kit.checkpoints import save_model, start_from
from pam_kit.data.broken import BrokenLedger
from pam_kit.data.prepare import Geometry
from pam_kit.data.schema import RegionDataset
from pam_kit.data.training import EndlessPositions, TrainingView, collate_training
from pam_kit.errors import CheckpointError, RecipeError
from pam_kit.model import RegionVLM
from pam_kit.registry import find
from pam_kit.sections import Recipe
from pam_kit.training.module import RegionTrainer
from pam_kit.training.progress import TrainingBar, hush
from pam_kit.training.run_folder import (
    log_name,
    new_run_folder,
    newest_run_folder,
    parameter_lines,
    parts_table,
    write_provenance,
)

# How the processes that Lightning starts find the run folder of the first one.
_RUN_FOLDER = "PAM_KIT_RUN_FOLDER"


def fit(recipe: Recipe, root: Path, resume: bool = False, say=print) -> Path:
    """Train what the recipe names and return the run folder, whose ``model/`` holds the result.

    Args:
        root: folder of runs; the run is ``root/<name>`` or, where that exists, ``root/<name>-2`` and so on.
        resume: go on with the newest run of that name from its last checkpoint.
    """
    hush()
    lightning.seed_everything(recipe.seed, workers=True, verbose=False)
    if recipe.train.num_threads:
        torch.set_num_threads(recipe.train.num_threads)
    dataset = find("dataset", recipe.data.train.name).build(**recipe.data.train.arguments)
    model = RegionVLM.from_recipe(recipe)
    if recipe.init_from:
        for part, fate in start_from(model, recipe, recipe.init_from).items():
            say(f"init_from {recipe.init_from}: {part} {fate}")
    if model.decoder.needs_vocabulary():
        model.decoder.learn_vocabulary(dataset.texts())
    max_steps = planned_steps(recipe, len(dataset))
    task = RegionTrainer(recipe, model, max_steps)
    folder = newest_run_folder(root, recipe.name) if resume else _shared_run_folder(root, recipe.name)
    checkpoint = _last_checkpoint(folder) if resume else None
    if is_first_process():
        write_provenance(folder, recipe)
        table = parts_table(task.parts)
        (folder / "parameters.txt").write_text("\n".join([*table, "", *parameter_lines(model)]), encoding="utf-8")
        say("\n".join([*table, f"{max_steps} steps of {recipe.train.global_batch_size} pictures -> {folder}"]))
    ledger = BrokenLedger(folder, recipe.data.max_broken_share, len(dataset))
    trainer = _trainer(recipe, folder, max_steps, ledger)
    start = _start_position(checkpoint, recipe)
    loader = training_loader(dataset, recipe, Geometry.of(model.backbone), trainer, start)
    trainer.fit(task, loader, ckpt_path=checkpoint, weights_only=True)
    if trainer.is_global_zero:
        say(ledger.close())
        save_model(folder, model, recipe)
    return folder


def is_first_process() -> bool:
    """Whether this is the process of a distributed run that speaks and writes; true in a run of one process."""
    return rank_zero_only.rank == 0


def _shared_run_folder(root: Path, name: str) -> Path:
    """A new folder, made by the first process; the others learn its name from their environment or, under torchrun
    and SLURM, are told at the start of training."""
    if not is_first_process():
        return Path(os.environ.get(_RUN_FOLDER, root / name))
    folder = new_run_folder(root, name)
    os.environ[_RUN_FOLDER] = str(folder)
    return folder


def planned_steps(recipe: Recipe, dataset_length: int) -> int:
    """Optimiser steps: ``max_steps``, or as many as ``epochs`` passes over the data need."""
    if recipe.train.max_steps is not None:
        return recipe.train.max_steps
    return max(1, math.ceil(recipe.train.epochs * dataset_length / recipe.train.global_batch_size))


def accumulation(recipe: Recipe, world_size: int) -> int:
    """Micro-batches that reach the global batch on ``world_size`` devices; RecipeError where none do."""
    section = recipe.train
    once = section.device_batch_size * world_size
    if section.global_batch_size % once:
        raise RecipeError(
            [
                f"train.global_batch_size={section.global_batch_size} is no multiple of device_batch_size "
                f"{section.device_batch_size} times {world_size} devices; change one of them"
            ]
        )
    return section.global_batch_size // once


def training_loader(
    dataset: RegionDataset, recipe: Recipe, geometry: Geometry, trainer: lightning.Trainer, start: int
) -> DataLoader:
    """Endless batches from position ``start`` on; each of the run's processes takes its own positions."""
    view = TrainingView(dataset, recipe.data, geometry, recipe.seed)
    workers = recipe.data.num_workers
    return DataLoader(
        view,
        batch_size=recipe.train.device_batch_size,
        sampler=EndlessPositions(start, trainer.world_size, trainer.global_rank),
        collate_fn=partial(collate_training, geometry=geometry),
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator().manual_seed(recipe.seed),
        worker_init_fn=_one_thread,
    )


class BrokenSampleWatch(Callback):
    """Counts and lists the samples that could not be used, and ends the run where there are too many."""

    def __init__(self, ledger: BrokenLedger):
        self.ledger = ledger

    def on_fit_start(self, trainer, module):
        self.ledger.file = trainer.strategy.broadcast(self.ledger.file)

    def on_train_batch_start(self, trainer, module, packet, index):
        batch, broken = packet
        good = 0 if batch is None else len(batch.images)
        self.ledger.record(good + len(broken), broken)


def _trainer(recipe: Recipe, folder: Path, max_steps: int, ledger: BrokenLedger) -> lightning.Trainer:
    section = recipe.train
    trainer = lightning.Trainer(
        accelerator=section.accelerator,
        devices=section.devices,
        num_nodes=section.num_nodes,
        strategy=section.strategy,
        precision=_precision(section.precision),
        max_steps=max_steps,
        max_epochs=1,
        gradient_clip_val=section.gradient_clip or None,
        log_every_n_steps=section.log_every,
        logger=CSVLogger(folder, name="", version=log_name(folder)),
        callbacks=[
            BrokenSampleWatch(ledger),
            TrainingBar(refresh_rate=section.log_every),
            ModelCheckpoint(folder / "checkpoints", filename="{step}", every_n_train_steps=section.checkpoint_every),
        ],
        use_distributed_sampler=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.accumulate_grad_batches = accumulation(recipe, trainer.world_size)
    trainer.limit_train_batches = max_steps * trainer.accumulate_grad_batches
    return trainer


def _precision(name: str) -> str:
    if name != "auto":
        return name
    return "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32-true"


def _last_checkpoint(folder: Path) -> Path:
    found = sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise CheckpointError(f"nothing to resume: {folder / 'checkpoints'} holds no checkpoint")
    return found[-1]


def _start_position(checkpoint: Path | None, recipe: Recipe) -> int:
    if checkpoint is None:
        return 0
    step = torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"]
    return step * recipe.train.global_batch_size


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
