"""Which model gave the answers, so that nobody has to guess. Torch-free until it is asked."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def describe_model(checkpoint: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Name, place and SHA-256 of a run folder's model, without loading it.

    Args:
        overrides: changes to its recipe, such as ``backbone.weights=/where/it/lies``.

    Raises:
        CheckpointError: it is no finished run.
    """
    from pam_kit.checkpoints.folder import RECIPE, model_folder, model_sha256
    from pam_kit.recipe import load_recipe

    folder = model_folder(checkpoint)
    recipe = load_recipe(str(folder / RECIPE), list(overrides))
    return {
        "model": recipe.name,
        "checkpoint": str(checkpoint),
        "sha256": model_sha256(folder),
        "decoder": recipe.model.decoder.name,
        "overrides": list(overrides),
        "pam_kit": version("pam-kit"),
    }
