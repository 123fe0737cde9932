"""Where the log of a run goes: a CSV file, TensorBoard, Weights & Biases."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from pam_kit.errors import MissingPackageError, PamKitError, RecipeError
from pam_kit.recipe import resolved_yaml
from pam_kit.recipe.rules import LOGGERS
from pam_kit.registry import suggest
from pam_kit.sections import Recipe
from pam_kit.training.processes import is_first_process
from pam_kit.training.run_folder import log_name


class FinishingWandbLogger(WandbLogger):
    """Closes the W&B run with the training; a second training of the process would be logged into it else."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self._experiment is not None:
            self._experiment.finish(exit_code=0 if status == "success" else 1)


def make_loggers(recipe: Recipe, folder: Path) -> list[Logger]:
    """The loggers that ``train.loggers`` names; each has the resolved recipe from the start.

    ``csv`` and ``tensorboard`` write into ``folder/logs``, a resumed run into ``folder/logs-2`` and so on, so that the
    former logs stay: ``metrics.csv`` and event files, which ``tensorboard --logdir`` finds from any folder above.
    ``wandb`` keeps its files in ``folder/wandb`` and uploads them; with ``WANDB_MODE=offline`` in the environment it
    needs no account and no network, and ``wandb sync`` uploads later. ``WANDB_PROJECT`` names the project.

    Args:
        recipe: the whole run; its resolved YAML is logged as TensorBoard text and as W&B configuration.
        folder: the run folder, which holds the recipe as a file for readers of the CSV.

    Raises:
        RecipeError: ``train.loggers`` names an unknown one.
        MissingPackageError: wandb is asked for and not installed.
        PamKitError: W&B refuses the run.
    """
    names = recipe.train.loggers
    unknown = [f"train.loggers: unknown logger {n!r}{suggest(n, LOGGERS, 'valid')}" for n in names if n not in LOGGERS]
    if unknown:
        raise RecipeError(unknown)
    if "wandb" in names and find_spec("wandb") is None:
        raise MissingPackageError(
            "train.loggers names wandb, which is not installed; install it with: pip install 'pam-kit[wandb]', "
            "or leave it out of train.loggers"
        )
    session = log_name(folder)
    loggers: list[Logger] = []
    if "csv" in names:
        loggers.append(CSVLogger(folder, name="", version=session))
    if "tensorboard" in names:
        loggers.append(TensorBoardLogger(folder, name="", version=session, default_hp_metric=False))
    if "wandb" in names:
        project = os.environ.get("WANDB_PROJECT", "pam-kit")
        loggers.append(FinishingWandbLogger(name=folder.name, save_dir=folder, project=project))
    if is_first_process():
        _log_recipe(loggers, recipe)
    return loggers


def log_pictures(loggers: Sequence[Logger], tag: str, pictures: Sequence[Image.Image], step: int) -> None:
    """Show RGB pictures in the loggers that can: TensorBoard as ``<tag>/1`` and so on, W&B as one row ``<tag>``."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            for number, picture in enumerate(pictures, start=1):
                logger.experiment.add_image(f"{tag}/{number}", np.asarray(picture), step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(tag, list(pictures), step)


def _log_recipe(loggers: Sequence[Logger], recipe: Recipe) -> None:
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            # Nothing to log, but it makes its folder, and would warn if the others had made it before.
            _ = logger.experiment
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("recipe", f"```yaml\n{resolved_yaml(recipe)}\n```")
        elif isinstance(logger, WandbLogger):
            _configure_wandb(logger, recipe)


def _configure_wandb(logger: WandbLogger, recipe: Recipe) -> None:
    from wandb.errors import Error

    try:
        logger.log_hyperparams(asdict(recipe))
    except Error as error:
        raise PamKitError(
            f"Weights & Biases refuses the run ({error}). Log in with `wandb login`, set WANDB_MODE=offline and upload "
            "later with `wandb sync`, or leave wandb out of train.loggers"
        ) from error
