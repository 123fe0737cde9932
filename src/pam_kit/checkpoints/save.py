"""A model becomes the folder ``model/``, whole or not at all."""

from pathlib import Path

from safetensors.torch import save_file

from pam_kit.atomic_files import whole_folder, write_json
from pam_kit.checkpoints.folder import PARTS, RECIPE, TOKENIZER, WEIGHTS, component_choices
from pam_kit.checkpoints.left_out import WEIGHT_ARGUMENTS, LeftOut, find_left_out, kept_back
from pam_kit.checkpoints.state import full_state
from pam_kit.errors import CheckpointError
from pam_kit.model import RegionVLM
from pam_kit.recipe import resolved_yaml
from pam_kit.sections import Recipe


def save_model(
    folder: str | Path,
    model: RegionVLM,
    recipe: Recipe,
    left_out: LeftOut | None = None,
    whole: bool = False,
    write: bool = True,
) -> Path:
    """Write ``folder/model``; it appears whole or not at all.

    Args:
        left_out: what need not be stored; None looks it up, which reads the weight files of frozen parts.
        whole: store everything, so that the folder needs no other file.
        write: False on the processes of a distributed run that only help to put its shards together.

    Raises:
        CheckpointError: a part whose weights are packed is to be stored whole.
    """
    target = Path(folder) / "model"
    if whole:
        _refuse_packed(model)
        left_out = LeftOut()
    elif left_out is None:
        left_out = find_left_out(model)
    state = full_state(model, left_out.names, keep=write)
    if not write:
        return target
    with whole_folder(target, replace=True) as draft:
        (draft / TOKENIZER).mkdir()
        save_file(state, draft / WEIGHTS, metadata={"format": "pt"})
        (draft / RECIPE).write_text(resolved_yaml(recipe), encoding="utf-8")
        write_json(draft / PARTS, _with_left_out(component_choices(recipe), left_out))
        model.decoder.save_tokenizer(str(draft / TOKENIZER))
    return target


def _refuse_packed(model: RegionVLM) -> None:
    for slot in WEIGHT_ARGUMENTS:
        if kept_back(getattr(model, slot)):
            raise CheckpointError(
                f"the {slot} is quantised, and packed weights are never stored; load the run with {slot}.quantize=null "
                "to store it whole"
            )


def _with_left_out(parts: dict, left_out: LeftOut) -> dict:
    for slot, files in left_out.files.items():
        number = sum(name.startswith(f"{slot}.") for name in left_out.names)
        parts[slot] |= {"left_out": number, "weight_files": files}
    return parts
