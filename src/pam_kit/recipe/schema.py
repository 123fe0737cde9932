"""The keys of a recipe, as the dataclasses of ``sections.py`` declare them. Torch-free."""

import ast
import dataclasses
import inspect
from collections.abc import Iterator
from dataclasses import MISSING, Field
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from pam_kit import sections
from pam_kit.sections import ComponentChoice, Recipe


@cache
def section_types(section: type) -> dict[str, Any]:
    """Key -> type of a section of ``sections.py``."""
    types = get_type_hints(section)
    return {key: types[key] for key in types if section is not Recipe or key not in ("source", "overrides")}


def is_section(schema: Any) -> bool:
    return dataclasses.is_dataclass(schema) and schema is not ComponentChoice


def item_section(schema: Any) -> type | None:
    """The section that each value of a table is, as in ``evaluate.splits``; else None."""
    item = get_args(schema)[1] if get_origin(schema) is dict else None
    return item if is_section(item) else None


def default_of(field: Field) -> Any:
    """A field's default value, or MISSING."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def recipe_fields(section: type) -> list[Field]:
    """The fields of a section that are keys of a recipe."""
    return [field for field in dataclasses.fields(section) if field.name in section_types(section)]


def is_optional(schema: Any) -> bool:
    """Whether ``schema`` is a section in which every key has a default, so that a recipe may leave it out."""
    return is_section(schema) and all(default_of(field) is not MISSING for field in dataclasses.fields(schema))


def dotted_keys(section: type, key: str = "") -> Iterator[str]:
    """Every key of a section and of those below it."""
    for name, schema in section_types(section).items():
        below = f"{key}.{name}" if key else name
        yield below
        if is_section(schema):
            yield from dotted_keys(schema, below)
        elif item := item_section(schema):
            yield from dotted_keys(item, f"{below}.<name>")


def key_comments() -> dict[str, dict[str, str]]:
    """Section -> field -> the comment lines above it in ``sections.py``."""
    source = inspect.getsource(sections)
    lines = source.splitlines()
    found: dict[str, dict[str, str]] = {}
    for section in ast.parse(source).body:
        if isinstance(section, ast.ClassDef):
            fields = [item for item in section.body if isinstance(item, ast.AnnAssign)]
            found[section.name] = {ast.unparse(field.target): _above(field.lineno, lines) for field in fields}
    return found


def _above(line: int, lines: list[str]) -> str:
    """The comment that ends in the line before ``line``, which is counted from 1."""
    first = line - 1
    while lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return " ".join(text.strip().lstrip("# ") for text in lines[first : line - 1])
