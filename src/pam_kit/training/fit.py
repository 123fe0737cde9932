"""A recipe becomes a run folder with a trained model in it."""

import math
from dataclasses import replace
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from pam_kit.checkpoints import LeftOut, find_left_out, save_model, start_from
from pam_kit.contracts import ClipBatch
from pam_kit.data.broken import BrokenLedger
from pam_kit.data.mixture import Mixture
from pam_kit.data.vocabulary import vocabulary_texts
from pam_kit.errors import RecipeError
from pam_kit.model import RegionVLM
from pam_kit.recipe import resolved_yaml
from pam_kit.sections import Recipe, TrainSection
from pam_kit.training.checkpointing import AtomicCheckpointIO, DataPosition, RunCheckpoints, RunFacts
from pam_kit.training.loading import step_batches, training_sets
from pam_kit.training.loggers import make_loggers
from pam_kit.training.module import RegionTrainer
from pam_kit.training.previews import Previews
from pam_kit.training.processes import decided_by_first, is_first_process, refuse_lonely_nodes, said_once
from pam_kit.training.progress import TrainingBar, hush
from pam_kit.training.resume import ResumePoint, find_resume_point, refuse_another_length, refuse_another_model
from pam_kit.training.run_folder import (
    add_resumption,
    new_run_folder,
    parameter_lines,
    parts_table,
    save_tokenizer,
    tokenizer_folder,
    write_provenance,
)
from pam_kit.training.strategies import make_strategy
from pam_kit.training.throughput import Throughput


def fit(recipe: Recipe, root: Path, resume: bool = False, say=print) -> Path:
    """Train what the recipe names and return the run folder, whose ``model/`` holds the result.

    Args:
        root: folder of runs; the run is ``root/<name>`` or, where that exists, ``root/<name>-2`` and so on.
        resume: go on with the newest run of that name from its last checkpoint.
    """
    hush()
    say = said_once(say)
    refuse_lonely_nodes(recipe.train)
    lightning.seed_everything(recipe.seed, workers=True, verbose=False)
    if recipe.train.num_threads:
        torch.set_num_threads(recipe.train.num_threads)
    point = find_resume_point(root, recipe) if resume else None
    if point and point.finished:
        say(f"{point.folder} is finished, there is nothing to resume")
        return point.folder
    mixture = training_sets(recipe)
    max_steps = planned_steps(recipe, len(mixture))
    model = _model(recipe, mixture, point, say)
    task = RegionTrainer(recipe, model, max_steps, mixture.clips)
    facts = _facts(recipe, model, max_steps, point)
    folder = point.folder if point else Path(decided_by_first(lambda: str(new_run_folder(root, recipe.name))))
    if is_first_process():
        _introduce(folder, task, point, say)
    ledger = BrokenLedger(folder, recipe.data.max_broken_share, len(mixture))
    trainer = _trainer(recipe, folder, facts, ledger, mixture, say)
    # What is left out of a checkpoint is there already; that nothing else is missing has been looked at.
    task.strict_loading = False
    batches = step_batches(mixture, task, trainer, facts.position)
    trainer.fit(task, batches, ckpt_path=point and point.file, weights_only=True)
    counts = torch.tensor([ledger.seen, ledger.num_broken], device=trainer.strategy.root_device)
    ledger.seen, ledger.num_broken = (int(count) for count in trainer.strategy.reduce(counts, reduce_op="sum"))
    if trainer.is_global_zero:
        say(ledger.close())
        if task.features is not None:
            say(task.features.report())
    save_model(folder, model, recipe, facts.left_out, write=trainer.is_global_zero)
    # Whoever returns may read the model.
    trainer.strategy.barrier()
    return folder


def _model(recipe: Recipe, mixture: Mixture, point: ResumePoint | None, say) -> RegionVLM:
    """The model with its vocabulary. A run that goes on takes both from where it was and not from ``init_from``."""
    model = RegionVLM.from_recipe(recipe)
    if point:
        if model.decoder.needs_vocabulary():
            model.decoder.load_tokenizer(str(tokenizer_folder(point.folder)))
        return model
    if recipe.init_from:
        for part, fate in start_from(model, recipe, recipe.init_from).items():
            say(f"init_from {recipe.init_from}: {part} {fate}")
    if model.decoder.needs_vocabulary():
        model.decoder.learn_vocabulary(vocabulary_texts(recipe.data, mixture))
    return model


def _facts(recipe: Recipe, model: RegionVLM, max_steps: int, point: ResumePoint | None) -> RunFacts:
    """What the run's checkpoints will say of it."""
    if point:
        refuse_another_length(point, max_steps)
        refuse_another_model(point, model)
        return replace(point.facts, recipe=resolved_yaml(recipe))
    left_out = find_left_out(model) if is_first_process() else LeftOut()
    return RunFacts(resolved_yaml(recipe), max_steps, left_out)


def _introduce(folder: Path, task: RegionTrainer, point: ResumePoint | None, say) -> None:
    """Say what is about to be trained, and leave in the run folder how it came to be."""
    recipe, table = task.recipe, parts_table(task.parts)
    if point:
        add_resumption(folder, recipe, point.file)
        say(f"going on from {point.file}")
    else:
        write_provenance(folder, recipe)
        save_tokenizer(folder, task.model.decoder)
        names = parameter_lines(task.model)
        (folder / "parameters.txt").write_text("\n".join([*table, "", *names]), encoding="utf-8")
    say("\n".join([*table, f"{task.max_steps} steps of {recipe.train.global_batch_size} samples -> {folder}"]))


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
                f"{recipe.name}: train.global_batch_size={section.global_batch_size} is no multiple of "
                f"device_batch_size {section.device_batch_size} times {world_size} devices; change one of them, for "
                f"example train.global_batch_size={max(1, round(section.global_batch_size / once)) * once}"
            ]
        )
    return section.global_batch_size // once


class BrokenSampleWatch(Callback):
    """Counts and lists the samples that could not be used, and ends the run where there are too many."""

    def __init__(self, ledger: BrokenLedger):
        self.ledger = ledger

    def on_fit_start(self, trainer, module):
        self.ledger.file = trainer.strategy.broadcast(self.ledger.file)

    def on_train_batch_start(self, trainer, module, packet, index):
        batch = packet.batch
        good = len(batch.frames if isinstance(batch, ClipBatch) else batch.images)
        self.ledger.record(good + len(packet.broken), packet.broken)


def _trainer(
    recipe: Recipe, folder: Path, facts: RunFacts, ledger: BrokenLedger, mixture: Mixture, say
) -> lightning.Trainer:
    section = recipe.train
    trainer = lightning.Trainer(
        accelerator=section.accelerator,
        devices=section.devices,
        num_nodes=section.num_nodes,
        strategy=make_strategy(section),
        precision=_precision(section),
        max_steps=facts.max_steps,
        max_epochs=1,
        gradient_clip_val=section.gradient_clip or None,
        log_every_n_steps=section.log_every,
        logger=make_loggers(recipe, folder),
        callbacks=[
            DataPosition(recipe.seed, facts, section.device_batch_size),
            BrokenSampleWatch(ledger),
            Throughput(section.log_every, say),
            TrainingBar(refresh_rate=section.log_every),
            *([Previews(recipe, mixture, folder, say)] if section.preview_every else []),
            RunCheckpoints(folder, section.checkpoint_every, facts),
        ],
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.accumulate_grad_batches = accumulation(recipe, trainer.world_size)
    trainer.limit_train_batches = facts.max_steps * trainer.accumulate_grad_batches
    return trainer


def _precision(section: TrainSection) -> str:
    if section.precision != "auto":
        return section.precision
    on_gpu = section.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
