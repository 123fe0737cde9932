"""One recipe on top of another: what a child file or the command line changes in what it starts from. Torch-free.

Sections, splits and components merge key by key; every other value, a list or a table of shares included, replaces what
it overrides. A component under another name replaces the old one with all its arguments.
"""

from dataclasses import replace
from typing import Any

from pam_kit.recipe.marked_yaml import Marked, Problems, shown
from pam_kit.recipe.schema import is_section, item_section, section_types
from pam_kit.sections import ComponentChoice, Recipe


def _schema_of(schema: Any, key: str) -> Any:
    return section_types(schema).get(key) if is_section(schema) else item_section(schema)


def normalise(marked: Marked, schema: Any) -> Marked:
    """Write out short forms: a component's bare name becomes ``{name: ...}``, a section left empty ``{}``."""
    value = marked.value
    if schema is ComponentChoice:
        if isinstance(value, str) and "${" not in value:
            return replace(marked, value={"name": replace(marked)})
    elif is_section(schema) or item_section(schema):
        if value is None and marked.place.line is not None:  # in a file; on the command line null is a mistake
            return replace(marked, value={})
        if isinstance(value, dict):
            items = value.items()
            dropped = item_section(schema)  # a split that is null stays so: it is left out
            value = {k: m if dropped and m.value is None else normalise(m, _schema_of(schema, k)) for k, m in items}
            return replace(marked, value=value)
    return marked


def merge(old: Marked | None, new: Marked, problems: Problems, schema: Any = Recipe, path: str = "") -> Marked:
    """``new`` on top of ``old``, both normalised."""
    if old is None or not isinstance(new.value, dict):
        return new
    if not isinstance(old.value, dict):
        if not new.partial or old.value is None:
            return new
        problems.add(new.place, path, f"what it changes is {shown(old)}, which has no keys; give it whole")
        return old
    component = schema is ComponentChoice
    if not (new.partial or component or is_section(schema) or item_section(schema)):
        return new
    if component and "name" in new.value:
        name = old.value.get("name")
        if name is None or name.plain() != new.value["name"].plain():
            return replace(new, partial=False)
    merged = dict(old.value)
    for key, item in new.value.items():
        below = f"{path}.{key}" if path else key
        merged[key] = merge(old.value.get(key), item, problems, _schema_of(schema, key), below)
    return replace(old, value=merged)
