"""A run starts from the weights of a former one, where they share parts."""

import warnings
from pathlib import Path

from torch import Tensor

from pam_kit.checkpoints.folder import PARTS, TOKENIZER, WEIGHTS, component_choices, model_folder, read_parts
from pam_kit.checkpoints.left_out import WEIGHT_ARGUMENTS, other_files
from pam_kit.checkpoints.state import missing_names, shortened
from pam_kit.errors import CheckpointError
from pam_kit.model import RegionVLM
from pam_kit.registry import SUPPLIED
from pam_kit.sections import SLOTS, TRAINABLE_PARTS, Recipe
from pam_kit.weights import read_weights

LOADED, OWN_FILE = "loaded", "from its own weight file"


def start_from(model: RegionVLM, recipe: Recipe, folder: str | Path) -> dict[str, str]:
    """Fill the parts that ``recipe`` shares with a former run; returns part -> what became of it.

    A part of another component or with other arguments keeps its own start, and is reported so; likewise one whose
    width follows from another part and has changed with it. What the former run has left out stays as the recipe's own
    weight file has it; if that is another file than the former run's, a warning says so.
    """
    folder = _former_run(folder)
    former = read_parts(folder)
    if former is None:
        raise CheckpointError(f"init_from: {folder} has no {PARTS}, which says what parts its weights are of")
    weights, chosen = read_weights(folder / WEIGHTS), component_choices(recipe)
    fates = {name: _fill(model, name, weights, former, chosen) for name in TRAINABLE_PARTS}
    if fates["decoder"].startswith(LOADED) and model.decoder.needs_vocabulary():
        model.decoder.load_tokenizer(str(folder / TOKENIZER))
    if all(fate.startswith("own start") for fate in fates.values()):
        raise CheckpointError(f"init_from: {folder} shares no part with this recipe; nothing was loaded")
    return fates


def _former_run(folder: str | Path) -> Path:
    try:
        return model_folder(folder)
    except CheckpointError as error:
        raise CheckpointError(
            f"init_from: {error}\nTrain the stage before this one first (pam-kit fit {Path(folder).name}), name the "
            "folder of its run (init_from=/folder), or start without it (init_from=null)"
        ) from error


def _fill(model: RegionVLM, name: str, weights: dict[str, Tensor], former: dict, chosen: dict) -> str:
    if name in SLOTS and _arguments(former, name) != _arguments(chosen, name):
        return f"own start (was {former[name]['name']} with other arguments)"
    part = getattr(model, name)
    own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
    state, missing = part.state_dict(), missing_names(part, own)
    if len(missing) == former.get(name, {}).get("left_out", 0):
        missing = []
    wrong = [key for key, value in own.items() if key in state and state[key].shape != value.shape]
    if missing or wrong:
        if name in SLOTS and not (name in SUPPLIED and _widths_may_differ(former, chosen)):
            raise CheckpointError(
                f"init_from: part {name} lacks {shortened(missing)}, has another shape in {shortened(wrong)}"
            )
        return "own start (other width)"
    part.load_state_dict(own, strict=False)
    if not former.get(name, {}).get("weight_files"):
        return LOADED
    rest = _its_own_file(part, name, former[name])
    return f"{LOADED}, the rest {rest}" if own else rest


def _its_own_file(part, name: str, former: dict) -> str:
    problems = other_files(part.weight_files, former["weight_files"])
    if not problems:
        return OWN_FILE
    warnings.warn(
        f"init_from: the {name} of the former run was frozen and came from another weight file, so what was trained on "
        f"it may not fit: {'; '.join(problems)}. Give the former run's file: {name}.{WEIGHT_ARGUMENTS[name]}=/path",
        stacklevel=2,
    )
    return f"{OWN_FILE}, which is another one than the former run's"


def _arguments(choices: dict, slot: str) -> tuple[str, dict]:
    """Name and arguments, but for where weights lie: they may have moved, and are told apart by their hash."""
    arguments = dict(choices[slot]["arguments"])
    source = WEIGHT_ARGUMENTS.get(slot, "")
    if arguments.get(source) is not None:
        arguments[source] = "a weight file"
    return choices[slot]["name"], arguments


def _widths_may_differ(former: dict, chosen: dict) -> bool:
    """Whether the parts between backbone and decoder may have got another width from them."""
    return any(_arguments(former, slot) != _arguments(chosen, slot) for slot in WEIGHT_ARGUMENTS)
