"""A dataset as a person names it: a file of lines, a registered dataset with arguments, or the sets of a recipe."""

from collections.abc import Sequence
from pathlib import Path

from pam_kit.data.schema import RegionDataset
from pam_kit.recipe import load_recipe
from pam_kit.recipe.arguments import component_choice
from pam_kit.registry import find, specs
from pam_kit.sections import DATASET_SLOT, ComponentChoice


def chosen_datasets(name: str, overrides: Sequence[str]) -> dict[str, RegionDataset]:
    """Datasets by what they are called. Raises RecipeError for an unknown name or argument."""
    if Path(name).suffix == ".jsonl":
        return {name: _build(component_choice(DATASET_SLOT, "jsonl", [f"path={name}", *overrides]))}
    if name in specs(DATASET_SLOT):
        return {name: _build(component_choice(DATASET_SLOT, name, overrides))}
    recipe = load_recipe(name, overrides)
    held_out = {f"{recipe.name}: {key}": split.dataset for key, split in recipe.evaluate.splits.items()}
    return {key: _build(choice) for key, choice in {f"{recipe.name}: train": recipe.data.train, **held_out}.items()}


def _build(choice: ComponentChoice) -> RegionDataset:
    return find(DATASET_SLOT, choice.name).build(**choice.arguments)
