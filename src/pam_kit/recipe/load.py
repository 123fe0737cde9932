"""Recipes: found, inherited, changed by the command line, checked, and written out again.

One recipe is one whole run. It is checked before anything is built, and all its mistakes are reported at once, each
with file, line and key. Torch-free.
"""

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, dataclass
from pathlib import Path
from typing import Any

import yaml

from pam_kit.errors import RecipeError
from pam_kit.recipe.marked_yaml import RecipeDumper
from pam_kit.recipe.schedule import load_schedule
from pam_kit.recipe.schema import (
    default_of,
    is_optional,
    is_section,
    item_section,
    key_comments,
    recipe_fields,
    section_types,
)
from pam_kit.recipe.source import shipped_files
from pam_kit.recipe.values import type_name
from pam_kit.sections import ComponentChoice, ModelSection, Recipe


def load_recipe(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by file or shipped name, with ``overrides`` such as ``decoder.num_layers=2`` on top, in their order.

    Paths in it stay as they are written: relative ones are relative to the working directory.

    Raises:
        RecipeError: every mistake in it, with file, line and key; or there is no such recipe.
    """
    schedule = load_schedule(path_or_name, overrides)
    if not schedule.single:
        stages = ", ".join(stage.name for stage in schedule.stages)
        raise RecipeError([f"{schedule.source} is a schedule of the stages {stages}; name one run, or use pam-kit fit"])
    return schedule.stages[0]


def shipped_recipes() -> dict[str, tuple[Path, str]]:
    """Name -> file and one-line description of every recipe that comes with the package."""
    return {name: (path, _description(path)) for name, path in shipped_files().items()}


def _description(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.strip("# ") for line in lines if line.startswith("#")), "")


def resolved_yaml(recipe: Recipe) -> str:
    """The recipe with every default written out; read back, it is equal but for ``source`` and ``overrides``."""
    changed = f", changed by {' '.join(recipe.overrides)}" if recipe.overrides else ""
    head = "".join(c if c.isprintable() else " " for c in f"from {recipe.source or 'memory'}{changed}")
    # A width without end keeps each value on one line.
    body = yaml.dump(_plain(recipe), Dumper=RecipeDumper, sort_keys=False, allow_unicode=True, width=10**6)
    return f"# {head}\n{body}"


def _plain(value: Any) -> Any:
    if isinstance(value, ComponentChoice):
        return {"name": value.name, **value.arguments}
    if is_section(type(value)):
        return {field.name: _plain(getattr(value, field.name)) for field in recipe_fields(type(value))}
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


@dataclass(frozen=True)
class RecipeKey:
    """One key that a recipe may hold. ``default`` is YAML; None where the key must be given."""

    key: str
    type: str
    default: str | None
    doc: str


# What may stand in a file only, beside the sections.
FILE_KEYS = (
    RecipeKey("extends", "str", "null", "a recipe, by file or shipped name, that this one changes"),
    RecipeKey("schedule", "list", "null", "stages that run in a row: recipes, or tables of changes"),
)


def valid_keys() -> list[RecipeKey]:
    """Every key of a recipe in order, with type, default and meaning; for a component's arguments ask the registry."""
    return list(_keys(Recipe, ""))


def _keys(section: type, prefix: str) -> Iterator[RecipeKey]:
    comments = key_comments().get(section.__name__, {})
    for field in recipe_fields(section):
        schema, key = section_types(section)[field.name], f"{prefix}{field.name}"
        yield RecipeKey(key, _kind(schema, section), _shown_default(field, schema), comments.get(field.name, ""))
        item = item_section(schema)
        if is_section(schema):
            yield from _keys(schema, f"{key}.")
        elif item:
            yield from _keys(item, f"{key}.<name>.")


def _kind(schema: Any, section: type) -> str:
    if schema is ComponentChoice:
        return "component" if section is ModelSection else "dataset"
    if item_section(schema):
        return "sections by name"
    return "section" if is_section(schema) else type_name(schema)


def _shown_default(field: Field, schema: Any) -> str | None:
    if field.name == "name":
        return "the file's name"
    if is_section(schema):
        return "{}" if is_optional(schema) else None
    default = default_of(field)
    return None if default is MISSING else _inline(_plain(default))


def _inline(value: Any) -> str:
    text = yaml.dump(value, Dumper=RecipeDumper, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").strip()
