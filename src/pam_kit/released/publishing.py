"""A run as one folder to hand on: everything that loading it needs, in the kit's own layout, with a model card."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pam_kit.checkpoints import full_state, load_model, model_folder, save_model
from pam_kit.checkpoints.folder import RECIPE
from pam_kit.model import RegionVLM
from pam_kit.registry import find
from pam_kit.released.adapters import merge_adapters
from pam_kit.released.draft import check_vacant, draft_of
from pam_kit.sections import SLOTS, TRAINABLE_PARTS, Recipe

CARD, SCORES = "README.md", "scores.md"
# Arguments that name what a part was made from.
_SOURCES = ("weights", "path", "model_name")


@dataclass(frozen=True)
class PublishReport:
    """What was written, and where.

    Attributes:
        run, out: the run folder that was read and the folder that was written.
        tensors: how many there are of each part.
        merged: whether the decoder's adapters were merged into its weights.
    """

    run: Path
    out: Path
    tensors: dict[str, int]
    merged: bool

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"read        {self.run}" + (", its adapters merged into the decoder" if self.merged else ""),
            *(f"{part:<12}{number:>7,} tensors" for part, number in self.tensors.items()),
            f"written     {self.out}: model.safetensors, recipe.yaml, parts.json, tokenizer, {CARD}",
        ]


def publish(run: str | Path, out: str | Path) -> PublishReport:
    """Write the folder ``out``, which ``RegionVLM.from_pretrained`` reads from there or from a hub repository.

    It holds all weights, also the frozen ones that a run leaves in their own files, and appears whole or not at all.

    Args:
        run: a run folder, its ``model`` folder or a hub name.
        out: a folder that is not there yet.

    Raises:
        CheckpointError: the run is incomplete, or ``out`` is there already.
    """
    run, out = Path(run), Path(out)
    check_vacant(out)
    model, recipe = load_model(run)
    recipe, merged = merge_adapters(model, recipe)
    with draft_of(out) as draft:
        save_model(draft, model, recipe, whole=True)
        for file in (draft / "model").iterdir():
            file.rename(draft / file.name)
        (draft / "model").rmdir()
        card = model_card(model, recipe, out.name, _origin(run), _scores(run))
        (draft / CARD).write_text(card, encoding="utf-8")
    tensors = {part: len(full_state(getattr(model, part))) for part in TRAINABLE_PARTS}
    return PublishReport(run, out, tensors, merged)


def model_card(model: RegionVLM, recipe: Recipe, name: str, origin: str = "", scores: str = "") -> str:
    """A README.md for the hub: what the model is made of, whose licences hold, how to load it, how it scores.

    Args:
        name: of the folder.
        origin: where the recipe came from, in words.
        scores: a Markdown table.
    """
    rows = [_part_row(model, recipe, part) for part in TRAINABLE_PARTS]
    sources = [f"- {line}" for line in [*_made_from(recipe), origin] if line]
    return "\n".join(
        [
            "---",
            "library_name: pam-kit",
            "pipeline_tag: image-to-text",
            "tags: [region-captioning, segmentation, vision-language-model]",
            "---",
            "",
            f"# {name}",
            "",
            "A vision-language model of regions: point at something in a picture, get its mask and a text about it.",
            "",
            "| part | component | arguments | parameters |",
            "| --- | --- | --- | ---: |",
            *rows,
            "",
            "## Load it",
            "",
            "```python",
            "from pam_kit import RegionVLM",
            "",
            f'model = RegionVLM.from_pretrained("{name}")  # this folder, or the name of its hub repository',
            "```",
            "",
            f"`pam-kit predict photo.jpg --checkpoint {name} --box 20,30,120,140` asks it from the command line.",
            "",
            "## Licences to check",
            "",
            "These weights derive from what is listed here, and the licences of all of it hold for them. Check each",
            "before you publish or use them, and say in the head of this file which licence results.",
            "",
            *sources,
            *(["", "## Scores", "", scores.strip()] if scores else []),
            "",
        ]
    )


def _part_row(model: RegionVLM, recipe: Recipe, part: str) -> str:
    number = sum(parameter.numel() for parameter in getattr(model, part).parameters())
    if part not in SLOTS:
        return f"| {part} | learned separators | | {number:,} |"
    chosen = getattr(recipe.model, part)
    arguments = ", ".join(f"{key}={_shown(value)}" for key, value in chosen.arguments.items())
    return f"| {part} | {chosen.name} | {arguments} | {number:,} |"


def _made_from(recipe: Recipe) -> list[str]:
    """Weights, datasets and former runs that the recipe names."""
    found = []
    for slot in SLOTS:
        chosen = getattr(recipe.model, slot)
        given = {p.name: p.default for p in find(slot, chosen.name).recipe_parameters} | chosen.arguments
        found += [f"{slot}: {key} {given[key]}" for key in _SOURCES if given.get(key)]
    train = recipe.data.train
    arguments = ", ".join(f"{key}={_shown(value)}" for key, value in train.arguments.items())
    found.append(f"training set: {train.name}" + (f" with {arguments}" if arguments else ""))
    return found + ([f"former run: {recipe.init_from}"] if recipe.init_from else [])


def _origin(run: Path) -> str:
    """What the head of the run's recipe says about where it came from; an imported run names the folder there."""
    first = (model_folder(run) / RECIPE).read_text(encoding="utf-8").partition("\n")[0]
    return f"recipe: {first.removeprefix('# ')}" if first.startswith("# ") else ""


def _scores(run: Path) -> str:
    """The scores of the run, where it has been scored."""
    file = model_folder(run).parent / SCORES
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _shown(value: Any) -> str:
    return str(value).replace("|", "\\|")
