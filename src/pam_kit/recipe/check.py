"""A recipe as it is written against the sections, the registered components and the ranges of its numbers.

Every mistake is collected before one is raised. Torch-free.
"""

from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from typing import Any

from pam_kit.recipe.marked_yaml import BROKEN, Marked, Place, Problems, as_marked, shown
from pam_kit.recipe.rules import findings
from pam_kit.recipe.schema import (
    default_of,
    dotted_keys,
    is_optional,
    is_section,
    item_section,
    recipe_fields,
    section_types,
)
from pam_kit.recipe.values import INVALID, convert, parse_annotation
from pam_kit.registry import SUPPLIED, ComponentSpec, specs, suggest
from pam_kit.sections import DATASET_SLOT, SLOTS, ComponentChoice, Recipe, TrainSection

_DEFAULT = Place("default")


def add_defaults(node: Marked, section: type = Recipe) -> None:
    """Write the default of every key that is not given into ``node``, so that ``${...}`` can refer to it."""
    for field in recipe_fields(section):
        schema, default, item = section_types(section)[field.name], default_of(field), node.value.get(field.name)
        if item is None and is_optional(schema):
            item = node.value[field.name] = Marked({}, _DEFAULT)
        elif item is None and default is not MISSING:
            item = node.value[field.name] = as_marked(default, _DEFAULT)
        elif item is not None and item.partial and isinstance(default, dict):
            _add_below(item, default)
        if item is not None and isinstance(item.value, dict):
            if is_section(schema):
                add_defaults(item, schema)
            below = item_section(schema)
            for entry in item.value.values() if below else ():
                if below and isinstance(entry.value, dict):
                    add_defaults(entry, below)


def _add_below(item: Marked, default: dict) -> None:
    item.value = {**as_marked(default, _DEFAULT).value, **item.value}


def check(root: Marked, problems: Problems) -> Any:
    """The typed recipe, or INVALID with what is wrong with it added to ``problems``."""
    return _Checker(problems).section(root, Recipe, "")


def check_component(node: Marked, slot: str, problems: Problems) -> Any:
    """One component of ``slot`` that stands alone, outside a recipe."""
    return _Checker(problems).component(node, slot)


class _Checker:
    def __init__(self, problems: Problems):
        self.problems = problems
        self.known: dict[str, dict[str, ComponentSpec]] = {}

    def section(self, node: Marked, section: type, key: str) -> Any:
        if not isinstance(node.value, dict):
            if node.value is not BROKEN:
                keys = ", ".join(section_types(section))
                self.problems.add(node.place, key, f"expected keys such as {keys}, got {shown(node)}")
            return INVALID
        types = section_types(section)
        for name, item in node.value.items():
            if name not in types:
                self.problems.add(item.place, _below(key, name), f"unknown key{_nearest_key(name, types)}")
        values = {}
        for field in recipe_fields(section):
            below = _below(key, field.name)
            if field.name in node.value:
                values[field.name] = self.value(node.value[field.name], types[field.name], below)
                self.rules(node.value[field.name], values[field.name], section, field.name, below)
            else:
                values[field.name] = self.missing(node, field, types[field.name], below)
        if section is TrainSection:
            self.batches(node, values)
        return INVALID if INVALID in values.values() else section(**values)

    def missing(self, node: Marked, field: Field, schema: Any, key: str) -> Any:
        if not self.problems.incomplete:
            text = "is missing"
            if schema is ComponentChoice:
                text += f"; choose one of {', '.join(self.specs(_slot(key)))}"
            elif is_section(schema):
                text += f"; it needs {', '.join(f.name for f in fields(schema) if default_of(f) is MISSING)}"
            self.problems.add(node.place, key, text)
        return INVALID

    def value(self, node: Marked, schema: Any, key: str) -> Any:
        if schema is ComponentChoice:
            return self.component(node, key)
        if is_section(schema):
            return self.section(node, schema, key)
        item = item_section(schema)
        if item and isinstance(node.value, dict):
            given = {name: below for name, below in node.value.items() if below.value is not None}
            items = {name: self.section(below, item, _below(key, name)) for name, below in given.items()}
            return INVALID if INVALID in items.values() else items
        if item and node.value is not BROKEN:
            self.problems.add(node.place, key, f"expected a name and its keys for each entry, got {shown(node)}")
            return INVALID
        return self.converted(node, schema, key)

    def converted(self, node: Marked, kind: Any, key: str) -> Any:
        errors: list[tuple[Place, str, str]] = []
        value = convert(node, kind, key, errors)
        for place, where, text in errors:
            if not (self.problems.incomplete and "???" in text):
                self.problems.add(place, where, text)
        return value

    def rules(self, node: Marked, value: Any, section: type, name: str, key: str) -> None:
        for entry, text in findings(section, name, value) if value is not INVALID else ():
            place = node.place if entry is None else node.value[entry].place
            self.problems.add(place, _below(key, entry) if isinstance(entry, str) else key, text)

    def batches(self, node: Marked, values: dict[str, Any]) -> None:
        whole, part = values["global_batch_size"], values["device_batch_size"]
        if INVALID in (whole, part) or whole <= 0 or part <= 0 or whole % part == 0:
            return
        places = [node.value[f"{name}_batch_size"].place for name in ("global", "device")]
        place = next((place for place in places if place != _DEFAULT), node.place)
        text = f"{whole} is not a multiple of train.device_batch_size, which is {part}"
        self.problems.add(place, "train.global_batch_size", text)

    def specs(self, slot: str) -> dict[str, ComponentSpec]:
        if slot not in self.known:
            self.known[slot] = specs(slot)
        return self.known[slot]

    def component(self, node: Marked, key: str) -> Any:
        slot = _slot(key)
        known = self.specs(slot)
        given = {"name": node} if isinstance(node.value, str) else node.value
        if given is BROKEN:
            return INVALID
        if not isinstance(given, dict) or "name" not in given:
            if not (self.problems.incomplete and isinstance(given, dict)):
                text = f"expected the name of a {slot}, and its arguments; registered: {', '.join(known) or 'none'}"
                self.problems.add(node.place, key, text)
            return INVALID
        name = self.converted(given["name"], str, f"{key}.name")
        if name is INVALID:
            return INVALID
        if name not in known:
            self.problems.add(given["name"].place, key, f"unknown {slot} {name!r}{suggest(name, known, 'registered')}")
            return INVALID
        return self.arguments(known[name], given, key)

    def arguments(self, spec: ComponentSpec, given: dict[str, Marked], key: str) -> Any:
        parameters = {p.name: p for p in spec.recipe_parameters}
        values = {}
        for name, item in given.items():
            below = _below(key, name)
            if name in parameters:
                default = parameters[name].default
                if item.partial and isinstance(default, dict):
                    _add_below(item, default)
                values[name] = self.converted(item, parse_annotation(parameters[name].annotation), below)
            elif name in SUPPLIED.get(spec.slot, ()):
                self.problems.add(item.place, below, "is set by the model, from its other components; leave it out")
            elif name != "name":
                text = f"unknown argument of {spec.slot} {spec.name!r}{suggest(name, parameters, 'it takes')}"
                self.problems.add(item.place, below, text)
        for parameter in parameters.values():
            if parameter.required and parameter.name not in given and not self.problems.incomplete:
                doc = f": {parameter.doc}" if parameter.doc else ""
                text = f"{spec.slot} {spec.name!r} needs the argument {parameter.name!r}{doc}"
                self.problems.add(given["name"].place, _below(key, parameter.name), text)
        return INVALID if INVALID in values.values() else ComponentChoice(spec.name, values)


def _below(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def _slot(key: str) -> str:
    last = key.rpartition(".")[2]
    return last if last in SLOTS else DATASET_SLOT


def _nearest_key(name: str, valid: Iterable[str]) -> str:
    """A near key of the same section; else one of another section; else all keys of this one."""
    if "." in name:
        return "; in a file, nest the keys instead of joining them by dots"
    elsewhere = {key.rpartition(".")[2]: key for key in reversed(list(dotted_keys(Recipe)))}
    near = suggest(name, valid)
    if not near:
        near = suggest(name, elsewhere)
        for last, key in elsewhere.items():
            near = near.replace(repr(last), repr(key))
    return near or f"; valid: {', '.join(valid)}"
