"""``model/`` becomes a model again: stored tensors from there, the others from the weight files they are in."""

from pathlib import Path

from torch import Tensor

from pam_kit.checkpoints.folder import RECIPE, TOKENIZER, WEIGHTS, model_folder, read_parts
from pam_kit.checkpoints.left_out import WEIGHT_ARGUMENTS, other_files
from pam_kit.checkpoints.state import missing_names, shortened
from pam_kit.errors import CheckpointError
from pam_kit.model import RegionVLM
from pam_kit.recipe import load_recipe
from pam_kit.sections import Recipe
from pam_kit.weights import read_weights


def load_model(folder: str | Path, overrides: tuple[str, ...] = ()) -> tuple[RegionVLM, Recipe]:
    """A run folder, its ``model`` folder or a hub name -> the model in eval mode and the recipe it was made from.

    Args:
        overrides: changes to the recipe, such as ``backbone.weights=/where/it/lies/now.pt``.

    Raises:
        CheckpointError: it is no finished run, its weights do not fit, or a weight file that it refers to is missing or
            another one.
    """
    folder = model_folder(folder)
    recipe = load_recipe(str(folder / RECIPE), overrides)
    # Parts some of whose tensors are not stored here.
    partial = {slot: part for slot, part in (read_parts(folder) or {}).items() if part.get("weight_files")}
    model = _built(recipe, partial, folder)
    stored = read_weights(folder / WEIGHTS)
    problem = _misfit(model, stored, partial)
    if problem:
        raise CheckpointError(f"{folder / WEIGHTS} does not fit the model of its recipe; {problem}")
    model.load_state_dict(stored, strict=False)
    return model.eval(), recipe


def _built(recipe: Recipe, partial: dict, folder: Path) -> RegionVLM:
    """The model with its tokenizer, before the stored weights are filled in."""
    try:
        model = RegionVLM.from_recipe(recipe, pretrained=tuple(partial))
    except CheckpointError as error:
        if not partial:
            raise
        raise CheckpointError(f"{error}\n{_remedy(folder, partial)}") from error
    problems = [
        f"{slot}: {problem}"
        for slot, part in partial.items()
        for problem in other_files(getattr(model, slot).weight_files, part["weight_files"])
    ]
    if problems:
        raise CheckpointError("\n".join([*problems, _remedy(folder, partial)]))
    before = {id(parameter) for parameter in model.decoder.parameters()}
    model.decoder.load_tokenizer(str(folder / TOKENIZER))
    if "decoder" in partial and before != {id(parameter) for parameter in model.decoder.parameters()}:
        raise CheckpointError(
            f"the decoder's folder describes another language model than {folder / TOKENIZER}, by which the run was "
            f"trained. {_remedy(folder, partial)}"
        )
    return model


def _misfit(model: RegionVLM, stored: dict[str, Tensor], partial: dict) -> str:
    """What is wrong with the stored tensors; nothing where they and the parts' weight files make up the model."""
    state = model.state_dict()
    missing = missing_names(model, stored)
    for slot, part in partial.items():
        own = [name for name in missing if name.startswith(f"{slot}.")]
        if len(own) == part["left_out"]:
            missing = [name for name in missing if name not in own]
    unexpected = [name for name in stored if name not in state]
    wrong = [name for name in stored if name in state and stored[name].shape != state[name].shape]
    if not (missing or unexpected or wrong):
        return ""
    return f"missing: {shortened(missing)}; unexpected: {shortened(unexpected)}; other shape: {shortened(wrong)}"


def _remedy(folder: Path, partial: dict) -> str:
    lines = []
    for slot, part in partial.items():
        files = ", ".join(f"{record['file']} (SHA-256 {record['sha256']})" for record in part["weight_files"])
        lines.append(
            f"{folder} stores no frozen weights of the {slot}; it needs {files}. "
            f"Where that lies elsewhere, say so: {slot}.{WEIGHT_ARGUMENTS[slot]}=/path"
        )
    return "\n".join(lines)
