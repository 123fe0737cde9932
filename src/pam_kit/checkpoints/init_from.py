"""A run starts from the weights of a former one, where they share parts."""

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pam_kit.checkpoints.folder import PARTS, TOKENIZER, WEIGHTS, component_choices, model_folder, read_parts
from pam_kit.checkpoints.left_out import WEIGHT_ARGUMENTS, other_files
from pam_kit.checkpoints.state import missing_names, shortened, tensor_names
from pam_kit.errors import CheckpointError
from pam_kit.model import RegionVLM
from pam_kit.registry import SUPPLIED, find
from pam_kit.sections import SLOTS, TRAINABLE_PARTS, Recipe
from pam_kit.weights import read_weights

LOADED, OWN_FILE = "loaded", "from its own weight file"
_BASE_LAYER = ".base_layer."


def start_from(model: RegionVLM, recipe: Recipe, folder: str | Path) -> dict[str, str]:
    """Fill the parts that ``recipe`` shares with a former run; returns part -> what became of it.

    A part of another component keeps its own start, and is reported so; likewise one whose tensors are others because
    of its arguments, or because its width follows from another part. Adapters that are new start without effect;
    a separator that is new starts anew beside the others.
    What the former run has left out stays as the recipe's own weight file has it; if that is another file than the
    former run's, a warning says so.
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
    if name in SLOTS and _class(former, name) != _class(chosen, name):
        return f"own start (was {former[name]['name']})"
    part, left_out = getattr(model, name), former.get(name, {}).get("left_out", 0)
    names, own = tensor_names(part), _own(weights, name, part)
    absent = [key for key in missing_names(part, own) if not _is_adapter(key)]
    # A separator that the former run had no use for starts anew, beside those that it has trained.
    new = [] if name in SLOTS else absent
    missing = [] if new or len(absent) == left_out else absent
    shapes = {key: tensor.shape for key, tensor in part.state_dict().items()}
    # A separator that this recipe has no use for is no reason to drop the others.
    unknown = [key for key in own if key not in names and name in SLOTS]
    wrong = unknown + [key for key, value in own.items() if shapes.get(key, value.shape) != value.shape]
    other = _other_arguments(former, chosen, name) if name in SLOTS else []
    if missing or wrong:
        if name in SLOTS and not other and not (name in SUPPLIED and _widths_may_differ(former, chosen)):
            raise CheckpointError(
                f"init_from: part {name} lacks {shortened(missing)}, has another shape in {shortened(wrong)}"
            )
        return f"own start (was made with another {' and '.join(other)})" if other else "own start (other width)"
    part.load_state_dict(own, strict=False)
    fate = f"{LOADED}, made with another {' and '.join(other)}" if other else LOADED
    if new:
        fate += f", {' and '.join(new)} new"
    if not former.get(name, {}).get("weight_files"):
        return fate
    rest = _its_own_file(part, name, former[name])
    return f"{fate}, the rest {rest}" if own else rest


def _own(weights: dict[str, Tensor], name: str, part: nn.Module) -> dict[str, Tensor]:
    """The tensors of a part; those that now have adapters beside them under the names they have there."""
    own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
    adapted = {key.replace(_BASE_LAYER, "."): key for key in tensor_names(part) if _BASE_LAYER in key}
    return {adapted.get(key, key): value for key, value in own.items()}


def _is_adapter(key: str) -> bool:
    """Whether a tensor belongs to an adapter, which starts without effect where a former run had none."""
    return ".lora_" in key


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


def _class(choices: dict, slot: str) -> tuple[str, str]:
    """The component behind a name, which may be that of a preset."""
    spec = find(slot, choices[slot]["name"])
    return spec.module, spec.class_name


def _other_arguments(former: dict, chosen: dict, slot: str) -> list[str]:
    """Names of the arguments that differ, but for where weights lie: they may have moved, and are told apart by their
    hash."""
    one, other = _arguments(former, slot), _arguments(chosen, slot)
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def _arguments(choices: dict, slot: str) -> dict[str, Any]:
    spec = find(slot, choices[slot]["name"])
    defaults = {parameter.name: parameter.default for parameter in spec.recipe_parameters if not parameter.required}
    arguments = defaults | spec.preset | choices[slot]["arguments"]
    arguments.pop(WEIGHT_ARGUMENTS.get(slot, ""), None)
    return arguments


def _widths_may_differ(former: dict, chosen: dict) -> bool:
    """Whether the parts between backbone and decoder may have got another width from them."""
    return any(
        _class(former, slot) != _class(chosen, slot) or _other_arguments(former, chosen, slot)
        for slot in WEIGHT_ARGUMENTS
    )
