"""A released PAM's folder into a run folder of the kit."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import yaml
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from pam_kit.atomic_files import write_json
from pam_kit.checkpoints import full_state, save_model
from pam_kit.checkpoints.state import missing_names
from pam_kit.errors import CheckpointError
from pam_kit.model import RegionVLM
from pam_kit.recipe import load_recipe
from pam_kit.released.draft import check_vacant, draft_of
from pam_kit.released.folder import CONFIG, ReleasedFolder, tokenizer_files
from pam_kit.released.names import VISION_TOWER, own_name, released_name
from pam_kit.released.settings import decoder_arguments, language_model_config
from pam_kit.sections import TRAINABLE_PARTS, Recipe
from pam_kit.weights import read_weights, without_pretrained_weights

_WORDS, _LOGITS = "decoder.lm.model.embed_tokens.weight", "decoder.lm.lm_head.weight"
SAM2_SOURCE = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_large.pt"


@dataclass(frozen=True)
class ImportReport:
    """What was read, and where it went.

    Attributes:
        source, run: the folder that was read and the run folder that was written.
        tensors, parameters: how many of them each part has.
        sam2: where the weights of SAM 2 came from, in words.
        vocabulary: rows of the word embeddings in the file and in the run.
        dtype: of the decoder.
    """

    source: Path
    run: Path
    tensors: dict[str, int]
    parameters: dict[str, int]
    sam2: str
    vocabulary: tuple[int, int]
    dtype: str

    def lines(self) -> list[str]:
        """For people."""
        before, after = self.vocabulary
        cut = f"{before:,} rows" if before == after else f"{before:,} rows cut to the tokenizer's {after:,}"
        rows = [
            f"{part:<12}{self.tensors[part]:>7,} tensors{self.parameters[part]:>16,} numbers" for part in self.tensors
        ]
        return [
            f"read        {self.source}, decoder in {self.dtype}",
            *rows,
            f"SAM 2       {self.sam2}",
            f"vocabulary  {cut}",
            f"run         {self.run}",
        ]


@dataclass(frozen=True)
class _Source:
    """One tensor in a file, under its released name."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def import_pam(
    path: str | Path,
    out: str | Path,
    sam2: str | Path | None = None,
    tokenizer: str | Path | None = None,
    overrides: Sequence[str] = (),
    whole_vocabulary: bool = False,
) -> ImportReport:
    """Write the run folder ``out`` with the weights, the recipe and the tokenizer of a released PAM.

    Every tensor keeps its value and its dtype. ``out`` appears whole or not at all.

    Args:
        path: a LLaVA-style folder: config.json of type llava_qwen, weights, tokenizer.
        out: a folder that is not there yet.
        sam2: weights of SAM 2, a published .pt file or safetensors of the same names; without it those in ``path`` are
            taken, which the released code itself ignores.
        tokenizer: a folder with tokenizer files, where ``path`` has none.
        overrides: changes to the recipe, for example ``backbone.size=tiny``.
        whole_vocabulary: keep the word embeddings that no token of the tokenizer stands for. The released loader drops
            them, and so does this function otherwise.

    Raises:
        CheckpointError: a file is missing or unreadable, or the tensors are not those of the model; all are listed.
        RecipeError: an override is wrong.
    """
    run = Path(out)
    check_vacant(run)
    folder = ReleasedFolder(path)
    arguments = decoder_arguments(folder.config)
    before = arguments["vocab_size"]
    with TemporaryDirectory() as staging:
        entries = _stage_tokenizer(folder, tokenizer, Path(staging))
        arguments["vocab_size"] = before if whole_vocabulary else entries
        arguments["dtype"] = _decoder_dtype(folder)
        recipe = _recipe(folder, arguments, run.name, overrides)
        model = _unfilled(folder, recipe, Path(staging))
    sources = _sources(folder, sam2)
    if not any(name.startswith("backbone.") for name in sources):
        raise CheckpointError(
            f"{folder.path} has no weights of SAM 2, the vision tower: the releases leave them out. Give them by "
            f"--sam2 sam2.1_hiera_large.pt, which is at {SAM2_SOURCE}"
        )
    _cut_vocabulary(folder, sources, arguments["vocab_size"])
    _fill(model, sources, folder.path)
    with draft_of(run) as draft:
        save_model(draft, model, recipe, whole=True)
    return ImportReport(
        source=folder.path,
        run=run,
        tensors={part: len(full_state(getattr(model, part))) for part in TRAINABLE_PARTS},
        parameters={part: sum(p.numel() for p in getattr(model, part).parameters()) for part in TRAINABLE_PARTS},
        sam2=_sam2_in_words(folder, sam2),
        vocabulary=(before, arguments["vocab_size"]),
        dtype=arguments["dtype"],
    )


def _stage_tokenizer(folder: ReleasedFolder, given: str | Path | None, staging: Path) -> int:
    """Copy tokenizer files to ``staging`` and read them once; returns the number of entries."""
    files = tokenizer_files(Path(given)) if given is not None else folder.tokenizer_files()
    if not files:
        raise CheckpointError(
            f"{given or folder.path} has no tokenizer files; give a folder that has them, for example one of "
            "Qwen2.5-1.5B-Instruct, by --tokenizer DIR"
        )
    for file in files:
        shutil.copyfile(file, staging / file.name)
    # Read as a Qwen2's: transformers knows no llava_qwen.
    write_json(staging / CONFIG, language_model_config(folder.config, folder.config["vocab_size"]))
    try:
        entries = len(AutoTokenizer.from_pretrained(staging, trust_remote_code=False))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{files[0].parent} holds no readable tokenizer: {error}") from error
    rows = folder.config["vocab_size"]
    if entries > rows:
        raise CheckpointError(
            f"the tokenizer of {files[0].parent} has {entries} entries, but {folder.path} only embeds {rows} of them; "
            "give its own tokenizer by --tokenizer DIR"
        )
    return entries


def _decoder_dtype(folder: ReleasedFolder) -> str:
    """That of the decoder's tensors; float32, which holds them all, where there are several."""
    found = {folder.dtype(name) for name in folder.names() if (own_name(name) or "").startswith("decoder.")}
    return str(found.pop()).removeprefix("torch.") if len(found) == 1 else "float32"


def _recipe(folder: ReleasedFolder, decoder: dict, name: str, overrides: Sequence[str]) -> Recipe:
    """The recipe of the run: the parts named ``pam``, and the decoder that config.json describes."""
    written = {
        "name": name,
        "model": {
            "backbone": "pam",
            "perceiver": "pam",
            "projector": "pam",
            "decoder": {"name": "causal_lm", **decoder},
        },
        "data": {"train": {"name": "pam_data", "path": "stage2.jsonl"}},
        "train": {"trainable": ["perceiver", "projector", "prefix", "decoder"]},
        "evaluate": {},
    }
    with TemporaryDirectory() as scratch:
        file = Path(scratch, "recipe.yaml")
        file.write_text(yaml.safe_dump(written, sort_keys=False), encoding="utf-8")
        recipe = load_recipe(file, overrides)
    chosen = recipe.model.decoder
    changed = [key for key in decoder if key != "dtype" and chosen.arguments.get(key) != decoder[key]]
    if chosen.name != "causal_lm" or changed:
        what = ".".join(["decoder", *changed[:1]])
        raise CheckpointError(f"{what} cannot be changed: {folder.path / CONFIG} says what the decoder is")
    recipe.source = str(folder.path)
    return recipe


def _unfilled(folder: ReleasedFolder, recipe: Recipe, staged: Path) -> RegionVLM:
    """The model on the meta device, its decoder with all settings of config.json, of which a recipe has the sizes."""
    config = language_model_config(folder.config, recipe.model.decoder.arguments["vocab_size"])
    with torch.device("meta"), without_pretrained_weights():
        model = RegionVLM.from_recipe(recipe)
        model.decoder.follow_config(AutoConfig.for_model(**config))
    model.decoder.load_tokenizer(str(staged))
    return model


def _sources(folder: ReleasedFolder, sam2: str | Path | None) -> dict[str, _Source]:
    """Own name -> where the tensor is. Tensors that no part has keep their released name."""
    inside = [name for name in folder.names() if not (sam2 and name.startswith(f"{VISION_TOWER}."))]
    found = [_Source(name, folder.shape(name), partial(folder.read, name)) for name in inside]
    if sam2:
        given = _sam2_weights(Path(sam2))
        found += [
            _Source(f"{VISION_TOWER}.{name}", tuple(tensor.shape), partial(given.__getitem__, name))
            for name, tensor in given.items()
        ]
    return {own_name(source.name) or source.name: source for source in found}


def _sam2_weights(file: Path) -> dict[str, Tensor]:
    given = read_weights(file)
    # Published checkpoints keep the state dict one level down.
    given = given.get("model", given) if isinstance(given, dict) else None
    if not isinstance(given, dict) or not all(isinstance(value, Tensor) for value in given.values()):
        raise CheckpointError(f"{file} holds no table of tensors; expected SAM 2.1's weights, from {SAM2_SOURCE}")
    return given


def _cut_vocabulary(folder: ReleasedFolder, sources: dict[str, _Source], rows: int) -> None:
    """Let the word embeddings, and the logits where they are stored, have the first ``rows`` only."""
    for own in (_WORDS, _LOGITS):
        source = sources.get(own)
        if source and source.shape[0] == folder.config["vocab_size"] > rows:
            read = partial(folder.read, source.name, rows)
            sources[own] = replace(source, shape=(rows, *source.shape[1:]), read=read)


def _fill(model: RegionVLM, sources: dict[str, _Source], path: Path) -> None:
    """Put the tensors into the model as they are; CheckpointError lists all that do not fit."""
    if model.decoder.lm.config.tie_word_embeddings:
        _check_tied(sources, path)
        sources = {own: source for own, source in sources.items() if own != _LOGITS}
    wanted = model.state_dict()
    problems = [f"missing: {released_name(own) or own}" for own in missing_names(model, sources)]
    problems += [f"unknown: {source.name}" for own, source in sources.items() if own not in wanted]
    problems += [
        f"of another shape: {source.name} is {source.shape}, not {tuple(wanted[own].shape)}"
        for own, source in sources.items()
        if own in wanted and source.shape != tuple(wanted[own].shape)
    ]
    if problems:
        raise CheckpointError(f"{path} does not fit; {len(problems)} tensors:\n  " + "\n  ".join(problems))
    model.load_state_dict({own: source.read() for own, source in sources.items()}, strict=False, assign=True)
    model.decoder.lm.tie_weights()


def _check_tied(sources: dict[str, _Source], path: Path) -> None:
    """The word logits may be stored although they are the word embeddings, but then as those."""
    words, logits = sources.get(_WORDS), sources.get(_LOGITS)
    if words and logits and not torch.equal(words.read(), logits.read()):
        raise CheckpointError(f"{path}: {logits.name} differs from {words.name}, but config.json ties the two")


def _sam2_in_words(folder: ReleasedFolder, sam2: str | Path | None) -> str:
    inside = sum(name.startswith(f"{VISION_TOWER}.") for name in folder.names())
    if sam2 is None:
        return f"its {inside} tensors in {folder.path}"
    return f"{sam2}" + (f"; the {inside} tensors of it in {folder.path} were left alone" if inside else "")
