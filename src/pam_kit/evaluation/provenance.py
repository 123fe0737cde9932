"""Which model gave the answers, so that nobody has to guess. Torch-free until it is asked."""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

# What a model's folder is made of; tensors that lie elsewhere are told of in parts.json by their digests.
_FILES = ("model.safetensors", "recipe.yaml", "parts.json")


def describe_model(checkpoint: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Name, place and SHA-256 of a run folder's model, without loading it.

    Args:
        overrides: changes to its recipe, such as ``backbone.weights=/where/it/lies``.

    Raises:
        CheckpointError: it is no finished run.
    """
    from pam_kit.checkpoints.folder import RECIPE, model_folder
    from pam_kit.recipe import load_recipe

    folder = model_folder(checkpoint)
    recipe = load_recipe(str(folder / RECIPE), list(overrides))
    return {
        "model": recipe.name,
        "checkpoint": str(checkpoint),
        "sha256": _digest(folder),
        "decoder": recipe.model.decoder.name,
        "overrides": list(overrides),
        "pam_kit": version("pam-kit"),
    }


def _digest(folder: Path) -> str:
    """Of all files that make the model, one behind the other."""
    digest = hashlib.sha256()
    for name in _FILES:
        if (folder / name).is_file():
            digest.update(name.encode())
            with open(folder / name, "rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
    return digest.hexdigest()
