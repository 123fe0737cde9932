"""Where a run that was killed goes on: its newest whole checkpoint, if the recipe is still the same."""

import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import yaml

from pam_kit.checkpoints import is_saved, other_files, tensor_names
from pam_kit.errors import CheckpointError, RecipeError
from pam_kit.model import RegionVLM
from pam_kit.recipe import resolved_yaml
from pam_kit.sections import Recipe
from pam_kit.training.checkpointing import FACTS, MODEL, RunFacts, by_step
from pam_kit.training.run_folder import newest_run_folder

# What may change when a run goes on: where and how fast it runs, what it tells, what came before and comes after it.
# Weight files may have moved; they are told apart by their hash.
_HARMLESS = (
    "evaluate",
    "init_from",
    "data.num_workers",
    "data.max_broken_share",
    "data.cache_folder",
    "model.backbone.weights",
    "model.decoder.path",
    *(
        f"train.{key}"
        for key in (
            "device_batch_size",
            "accelerator",
            "devices",
            "num_nodes",
            "strategy",
            "activation_checkpointing",
            "compile",
            "num_threads",
            "log_every",
            "loggers",
            "preview_every",
            "checkpoint_every",
        )
    ),
)


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint that was found whole.

    Attributes:
        step: optimiser steps done.
        stored: names of the model's tensors in it.
    """

    file: Path
    step: int
    facts: RunFacts
    stored: frozenset[str]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.file.parents[1]

    @property
    def finished(self) -> bool:
        """Whether the run has taken its last step and saved its model."""
        return self.step >= self.facts.max_steps and is_saved(self.folder)


def find_resume_point(root: Path, recipe: Recipe) -> ResumePoint:
    """Where the newest run of that name goes on. Every process of a run looks for itself, before any of them writes.

    Raises:
        CheckpointError: there is no run of that name, or it has no whole checkpoint.
        RecipeError: the run was made from another recipe.
    """
    point = read_resume_point(newest_whole_checkpoint(newest_run_folder(root, recipe.name)))
    refuse_another_recipe(point, recipe)
    return point


def newest_whole_checkpoint(folder: Path) -> Path:
    """The newest checkpoint of a run folder that can be read; a damaged one is passed over with a warning.

    Raises:
        CheckpointError: there is none.
    """
    files = by_step(folder / "checkpoints")
    for file in reversed(files):
        damage = _damage(file)
        if damage is None:
            return file
        warnings.warn(f"{file} is damaged ({damage}); looking for the checkpoint before it", stacklevel=2)
    what = f"all of {', '.join(file.name for file in files)} are damaged" if files else "it is empty"
    raise CheckpointError(
        f"nothing to resume: {folder / 'checkpoints'} holds no whole checkpoint ({what}). Start the run again without "
        "--resume; train.checkpoint_every says how often a checkpoint is written"
    )


def read_resume_point(file: Path) -> ResumePoint:
    """What a checkpoint says about the run, without its tensors."""
    content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    names = frozenset(name.removeprefix(MODEL) for name in content["state_dict"])
    return ResumePoint(file, content["global_step"], RunFacts.from_plain(content[FACTS]), names)


def refuse_another_recipe(point: ResumePoint, recipe: Recipe) -> None:
    """RecipeError lists the keys that differ from the run's recipe and would make it another run."""
    former, now = (_flat(yaml.safe_load(text)) for text in (point.facts.recipe, resolved_yaml(recipe)))
    changed = [key for key in former | now if former.get(key) != now.get(key) and not _is_harmless(key)]
    if changed:
        lines = [f"{key} was {former.get(key)!r} and is now {now.get(key)!r}" for key in changed]
        raise RecipeError(
            [
                f"{point.file} belongs to a run of another recipe; to go on, give the same recipe and changes as then. "
                "To train on with others, start a new run with init_from",
                *lines,
            ]
        )


def refuse_another_length(point: ResumePoint, max_steps: int) -> None:
    """RecipeError where the recipe is the same but the training set is not: ``epochs`` passes take other steps now."""
    if max_steps != point.facts.max_steps:
        raise RecipeError(
            [
                f"the run was to take {point.facts.max_steps} steps and would now take {max_steps}: the training set "
                "has another length than then. Restore it, or start a new run with init_from"
            ]
        )


def refuse_another_model(point: ResumePoint, model: RegionVLM) -> None:
    """CheckpointError where the checkpoint and the files of what it leaves out do not make up the model."""
    names, left_out = tensor_names(model), point.facts.left_out
    lacking = names - point.stored - left_out.names
    unknown = (point.stored | left_out.names) - names
    problems = [f"it lacks {name}" for name in sorted(lacking)[:3]]
    problems += [f"the model has no {name}" for name in sorted(unknown)[:3]]
    for slot, records in left_out.files.items():
        problems += [f"{slot}: {line}" for line in other_files(getattr(model, slot).weight_files, records)]
    if problems:
        raise CheckpointError(f"{point.file} does not belong to this model:\n  " + "\n  ".join(problems))


def _damage(file: Path) -> str | None:
    """What is wrong with a checkpoint file, or None."""
    try:
        with zipfile.ZipFile(file) as archive:
            # torch itself compares no checksums.
            bad = archive.testzip()
        if bad is not None:
            return f"wrong checksum of {bad}"
        read_resume_point(file)
    except (zipfile.BadZipFile, UnpicklingError, RuntimeError, OSError, EOFError) as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    except (KeyError, TypeError):
        return "it was not written by this version of the kit"
    return None


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested dicts as one, under dotted keys."""
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {k: v for name, item in value.items() for k, v in _flat(item, f"{key}.{name}".lstrip(".")).items()}


def _is_harmless(key: str) -> bool:
    return any(key == harmless or key.startswith(f"{harmless}.") for harmless in _HARMLESS)
