"""A trained model on disk: ``model/`` of a run folder holds weights (safetensors), recipe and tokenizer."""

import json
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_model as load_safetensors
from safetensors.torch import save_model as save_safetensors
from torch import nn

from pam_kit.errors import CheckpointError
from pam_kit.model import RegionVLM
from pam_kit.recipe import load_recipe, resolved_yaml
from pam_kit.registry import SUPPLIED
from pam_kit.sections import SLOTS, TRAINABLE_PARTS, Recipe
from pam_kit.weights import read_weights, without_pretrained_weights

WEIGHTS, RECIPE, TOKENIZER, PARTS = "model.safetensors", "recipe.yaml", "tokenizer", "parts.json"


def save_model(folder: str | Path, model: RegionVLM, recipe: Recipe) -> Path:
    """Write ``folder/model``; it appears whole or not at all."""
    target = Path(folder) / "model"
    draft, former = target.with_name("model.part"), target.with_name("model.old")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / TOKENIZER).mkdir(parents=True)
    save_safetensors(model, str(draft / WEIGHTS))
    (draft / RECIPE).write_text(resolved_yaml(recipe), encoding="utf-8")
    (draft / PARTS).write_text(json.dumps(_choices(recipe), indent=1, ensure_ascii=False), encoding="utf-8")
    model.decoder.save_tokenizer(str(draft / TOKENIZER))
    # Deleting takes long; a run that is killed meanwhile must not be left with half a model.
    shutil.rmtree(former, ignore_errors=True)
    if target.exists():
        target.rename(former)
    draft.rename(target)
    shutil.rmtree(former, ignore_errors=True)
    return target


def load_model(folder: str | Path, overrides: tuple[str, ...] = ()) -> tuple[RegionVLM, Recipe]:
    """A run folder, or its ``model`` folder -> the model in eval mode and the recipe it was made from."""
    folder = model_folder(folder)
    recipe = load_recipe(str(folder / RECIPE), overrides)
    with without_pretrained_weights():
        model = RegionVLM.from_recipe(recipe)
    model.decoder.load_tokenizer(str(folder / TOKENIZER))
    try:
        missing, unexpected = load_safetensors(model, str(folder / WEIGHTS), strict=False)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS} is damaged: {error}") from error
    except RuntimeError as error:
        raise CheckpointError(f"{folder / WEIGHTS} does not fit the model of its recipe: {error}") from error
    if missing or unexpected:
        raise CheckpointError(
            f"{folder / WEIGHTS} does not fit the model of its recipe; "
            f"missing: {_first(missing)}; unexpected: {_first(unexpected)}"
        )
    return model.eval(), recipe


def start_from(model: RegionVLM, recipe: Recipe, folder: str | Path) -> dict[str, str]:
    """Fill the parts that ``recipe`` shares with a former run; returns part -> what became of it.

    A part of another component or with other arguments keeps its own start, and is reported so; likewise one whose
    width follows from another part and has changed with it.
    """
    folder = model_folder(folder)
    if not (folder / PARTS).is_file():
        raise CheckpointError(f"init_from: {folder} has no {PARTS}, which says what parts its weights are of")
    former = json.loads((folder / PARTS).read_text(encoding="utf-8"))
    weights = read_weights(folder / WEIGHTS)
    fates = {}
    for name in TRAINABLE_PARTS:
        fates[name] = _fill(getattr(model, name), name, weights, former, _choices(recipe))
    if fates["decoder"] == "loaded" and model.decoder.needs_vocabulary():
        model.decoder.load_tokenizer(str(folder / TOKENIZER))
    if "loaded" not in fates.values():
        raise CheckpointError(f"init_from: {folder} shares no part with this recipe; nothing was loaded")
    return fates


def model_folder(folder: str | Path) -> Path:
    """The folder that holds the weights of a run; CheckpointError says what is missing."""
    folder = Path(folder)
    for candidate in (folder / "model", folder):
        if (candidate / WEIGHTS).is_file() and (candidate / RECIPE).is_file():
            return candidate
    what = "no such folder" if not folder.exists() else f"it has no model/{WEIGHTS} and model/{RECIPE}"
    raise CheckpointError(f"{folder} is not a finished run: {what}. `pam-kit fit RECIPE` makes one under runs/")


def _fill(part: nn.Module, name: str, weights: dict, former: dict, chosen: dict) -> str:
    if name in SLOTS and former[name] != chosen[name]:
        return f"own start (was {former[name]['name']} with other arguments)"
    own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
    tied, state = _tied_names(part), part.state_dict()
    missing = [key for key in state if key not in own and tied.get(key) not in own]
    wrong = [key for key, value in own.items() if key in state and state[key].shape != value.shape]
    if missing or wrong:
        if name in SLOTS and not (name in SUPPLIED and _widths_may_differ(former, chosen)):
            raise CheckpointError(
                f"init_from: part {name} lacks {_first(missing)}, has another shape in {_first(wrong)}"
            )
        return "own start (other width)"
    part.load_state_dict(own, strict=False)
    return "loaded"


def _widths_may_differ(former: dict, chosen: dict) -> bool:
    """Whether the parts between backbone and decoder may have got another width from them."""
    return any(former[slot] != chosen[slot] for slot in ("backbone", "decoder"))


def _tied_names(part: nn.Module) -> dict[str, str]:
    """name -> another name of the same tensor; safetensors stores such a tensor once."""
    by_pointer: dict[int, list[str]] = {}
    for key, value in part.state_dict(keep_vars=True).items():
        by_pointer.setdefault(id(value), []).append(key)
    twins = [names for names in by_pointer.values() if len(names) > 1]
    return {name: other for names in twins for name in names for other in names if other != name}


def _choices(recipe: Recipe) -> dict:
    return {
        slot: {"name": getattr(recipe.model, slot).name, "arguments": getattr(recipe.model, slot).arguments}
        for slot in SLOTS
    }


def _first(names) -> str:
    names = list(names)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(map(str, names[:5])) + more) or "none"
