"""The files of ``model/``, where a run or a hub repository keeps them, and what they say about its parts."""

import hashlib
import json
import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from pam_kit.errors import CheckpointError
from pam_kit.sections import SLOTS, Recipe

WEIGHTS, RECIPE, TOKENIZER, PARTS = "model.safetensors", "recipe.yaml", "tokenizer", "parts.json"
# Of a schedule: which of its stages have ended.
STAGES = "schedule.json"
# What a model is made of; tensors that lie elsewhere are told of in parts.json by their digests.
_MADE_OF = (WEIGHTS, RECIPE, PARTS)
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_HUB_FILES = ["*.safetensors", "*.json", "*.yaml", "*.txt"]


def model_folder(folder: str | Path) -> Path:
    """The folder that holds the weights of a run, of the last stage that a schedule has ended, or of a hub repository,
    which is downloaded.

    Raises:
        CheckpointError: it is neither; the message says what is missing.
    """
    name, folder = str(folder), Path(folder)
    if not folder.exists() and _HUB_NAME.fullmatch(name) and not folder.parent.is_dir():
        folder = _downloaded(name)
    stages = [folder / run / "model" for run in ended_stages(folder).values()]
    for candidate in (folder / "model", folder, *reversed(stages)):
        if _has_model(candidate):
            return candidate
    raise CheckpointError(f"{name} is not a finished run: {_what_it_is(folder)}")


def ended_stages(folder: Path) -> dict[str, str]:
    """Of a schedule's folder: stage -> the name of its run folder, in the order in which they ended."""
    file = folder / STAGES
    return json.loads(file.read_text(encoding="utf-8"))["ended"] if file.is_file() else {}


def is_saved(run: Path) -> bool:
    """Whether the model of a run folder is there; it appears whole or not at all."""
    return _has_model(run / "model")


def component_choices(recipe: Recipe) -> dict:
    """Name and arguments of the component in each slot."""
    return {
        slot: {"name": getattr(recipe.model, slot).name, "arguments": getattr(recipe.model, slot).arguments}
        for slot in SLOTS
    }


def read_parts(folder: Path) -> dict | None:
    """What ``parts.json`` says of each slot: name, arguments and, where tensors are elsewhere, the files that have them
    (``weight_files``) and their number (``left_out``); None where there is no such file.
    """
    file = folder / PARTS
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def model_sha256(folder: str | Path) -> str:
    """SHA-256 of all files that make the model of a run or hub repository, one behind the other.

    Raises CheckpointError as ``model_folder`` does.
    """
    folder, digest = model_folder(folder), hashlib.sha256()
    for name in _MADE_OF:
        if (folder / name).is_file():
            digest.update(name.encode())
            with open(folder / name, "rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
    return digest.hexdigest()


def _what_it_is(folder: Path) -> str:
    if not folder.exists():
        return "no such folder. `pam-kit fit RECIPE` makes one under runs/"
    config = folder / "config.json"
    if config.is_file() and '"llava_qwen"' in config.read_text(encoding="utf-8", errors="replace"):
        return f"it has the layout of the released PAM. `pam-kit import-pam {folder} --out RUN` makes a run of it"
    return f"it has no model/{WEIGHTS} and model/{RECIPE}. `pam-kit fit RECIPE` makes one under runs/"


def _has_model(folder: Path) -> bool:
    return (folder / WEIGHTS).is_file() and (folder / RECIPE).is_file()


def _downloaded(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{name} is no folder here, and as a name on the Hugging Face hub it cannot be fetched: {reason} "
            "Check the name and the connection, or give the folder of a run"
        ) from error
