"""A run folder into the folder of a released PAM, which the released code reads."""

from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from torch import Tensor

from pam_kit.atomic_files import write_json
from pam_kit.checkpoints import full_state, load_model, model_folder
from pam_kit.checkpoints.folder import WEIGHTS
from pam_kit.errors import CheckpointError
from pam_kit.model import RegionVLM
from pam_kit.registry import find
from pam_kit.released.adapters import merge_adapters
from pam_kit.released.draft import check_vacant, draft_of
from pam_kit.released.folder import CONFIG, GENERATION_CONFIG
from pam_kit.released.names import released_name
from pam_kit.released.settings import released_config
from pam_kit.released.tokenizer import save_for_released_code
from pam_kit.sections import TRAINABLE_PARTS, Recipe

# What the released code has written into it: slot -> arguments that a recipe may still choose freely.
_FREE = {
    "backbone": {"size", "image_size", "weights", "frozen", "overrides"},
    "perceiver": set(),
    "projector": set(),
}
# The released code looks for this SAM 2 by its name and takes no other from a checkpoint.
_RELEASED_SAM2 = {"size": "large", "image_size": 1024, "overrides": None}


@dataclass(frozen=True)
class ExportReport:
    """What was written, and where.

    Attributes:
        run, out: the run folder that was read and the folder that was written.
        tensors: how many there are of each part.
        files: names of the weight files.
        notes: what the reader of the folder has to know.
    """

    run: Path
    out: Path
    tensors: dict[str, int]
    files: tuple[str, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"read        {self.run}",
            *(f"{part:<12}{number:>7,} tensors" for part, number in self.tensors.items()),
            f"written     {self.out}: {', '.join(self.files)}, {CONFIG}, tokenizer",
            *(f"note        {note}" for note in self.notes),
        ]


def export_pam(run: str | Path, out: str | Path, max_shard_size: str = "5GB") -> ExportReport:
    """Write the folder ``out`` in the layout of the released PAM; every tensor keeps its value and its stored dtype.

    ``out`` appears whole or not at all.

    Args:
        run: a run folder, its ``model`` folder or a hub name.
        out: a folder that is not there yet.
        max_shard_size: larger weights are split into several files.

    Raises:
        CheckpointError: the run is incomplete, or has parts that the released code does not have; all are listed.
    """
    run, out = Path(run), Path(out)
    check_vacant(out)
    model, recipe = load_model(run)
    problems = _foreign_parts(model, recipe)
    if problems:
        raise CheckpointError(f"{run} cannot be written as a released PAM:\n  " + "\n  ".join(problems))
    recipe, _ = merge_adapters(model, recipe)
    own = full_state(model)
    with draft_of(out) as draft:
        state = _released_state(own, _stored_dtypes(run))
        save_torch_state_dict(state, draft, max_shard_size=max_shard_size, metadata={"format": "pt"})
        _write_configs(model, recipe, draft)
        save_for_released_code(model.decoder.tokenizer, draft)
        files = tuple(sorted(path.name for path in draft.glob("*.safetensors")))
    tensors = {part: sum(name.startswith(f"{part}.") for name in own) for part in TRAINABLE_PARTS}
    return ExportReport(run, out, tensors, files, tuple(_notes(recipe)))


def _foreign_parts(model: RegionVLM, recipe: Recipe) -> list[str]:
    """One line for everything that the released code would compute otherwise."""
    problems = []
    for slot, free in _FREE.items():
        chosen, released = find(slot, getattr(recipe.model, slot).name), find(slot, "pam")
        if (chosen.module, chosen.class_name) != (released.module, released.class_name):
            problems.append(f"{slot} is {chosen.name}; the released code has {released.preset_of} alone")
            continue
        given = {p.name: p.default for p in chosen.recipe_parameters} | getattr(recipe.model, slot).arguments
        problems += [
            f"{slot}.{p.name} is {given[p.name]}; the released code has {p.default}"
            for p in released.recipe_parameters
            if p.name not in free and given[p.name] != p.default
        ]
    config = getattr(getattr(model.decoder, "lm", None), "config", None)
    if getattr(config, "model_type", None) != "qwen2":
        problems.append(
            f"decoder is {recipe.model.decoder.name}; the released code has a causal_lm of type qwen2 alone"
        )
    elif model.decoder.template != "chatml":
        problems.append(f"decoder.template is {model.decoder.template}; the released code has chatml")
    return problems


def _released_state(own: dict[str, Tensor], stored: dict[str, torch.dtype]) -> dict[str, Tensor]:
    """The model's tensors under released names, in the types the run stores them in, which may be narrower."""
    unnamed = [name for name in own if released_name(name) is None]
    if unnamed:
        raise CheckpointError(f"the released layout has no name for {', '.join(unnamed)}")
    return {str(released_name(name)): tensor.to(stored.get(name, tensor.dtype)) for name, tensor in own.items()}


def _stored_dtypes(run: Path) -> dict[str, torch.dtype]:
    with safe_open(model_folder(run) / WEIGHTS, "pt") as file:
        return {name: file.get_slice(name)[:0].dtype for name in file.keys()}


def _write_configs(model: RegionVLM, recipe: Recipe, folder: Path) -> None:
    decoder = model.decoder
    dtype = str(decoder.lm.dtype).removeprefix("torch.")
    config = released_config(decoder.lm.config, decoder.max_positions, dtype)
    write_json(folder / CONFIG, config)
    ends = {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"]}
    pad = decoder.tokenizer.pad_token_id
    version = config["transformers_version"]
    write_json(
        folder / GENERATION_CONFIG,
        {"_from_model_config": True, **ends, "pad_token_id": pad, "transformers_version": version},
    )


def _notes(recipe: Recipe) -> list[str]:
    chosen = recipe.model.backbone
    defaults = {p.name: p.default for p in find("backbone", chosen.name).recipe_parameters}
    notes = ["the released code reads SAM 2 from sam2.1_hiera_large.pt and ignores that of a checkpoint"]
    other = [
        f"{name}={value}"
        for name, value in (defaults | chosen.arguments).items()
        if name in _RELEASED_SAM2 and value != _RELEASED_SAM2[name]
    ]
    if other:
        notes.append(
            f"config.json has no field for another SAM 2 than Hiera-L at 1024 pixels; this one: {', '.join(other)}"
        )
    return notes
