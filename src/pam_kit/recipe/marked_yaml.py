"""YAML read with the place of every key, and the list of what is wrong with it. Torch-free."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from pam_kit.errors import RecipeError

_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")}
# Stands for a value that has been reported already; whoever meets it says nothing more.
BROKEN = object()


@dataclass(frozen=True)
class Place:
    """Where a key stands: a file and its line, or the command line."""

    where: str
    line: int | None = None

    def __str__(self) -> str:
        return self.where if self.line is None else f"{self.where}:{self.line}"


@dataclass
class Marked:
    """A value of a recipe and where its key stands. ``value`` is a scalar, a list of Marked or a dict of them.

    ``partial``: it came from a dotted key such as ``data.tasks.caption=0``, so that it adds to what it meets.
    """

    value: Any
    place: Place
    partial: bool = False

    def plain(self) -> Any:
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        return [item.plain() for item in self.value] if isinstance(self.value, list) else self.value

    def copy(self) -> "Marked":
        """The same value in nodes of its own."""
        value = self.value
        if isinstance(value, dict):
            value = {key: item.copy() for key, item in value.items()}
        elif isinstance(value, list):
            value = [item.copy() for item in value]
        return Marked(value, self.place, self.partial)


class Problems:
    """Mistakes of one recipe, kept until all of it has been looked at.

    ``incomplete``: a part could not be read, so that what seems to be missing may stand there.
    """

    def __init__(self) -> None:
        self.found: list[tuple[Place, str]] = []
        self.incomplete = False

    def add(self, place: Place, key: str, text: str) -> None:
        self.found.append((place, f"{place}: {key}: {text}" if key else f"{place}: {text}"))

    def unreadable(self, place: Place, key: str, text: str) -> None:
        self.add(place, key, text)
        self.incomplete = True

    def raise_any(self) -> None:
        """Raise RecipeError with everything found: file by file, each from top to bottom, the command line last."""
        wheres = list(dict.fromkeys(place.where for place, _ in self.found if place.line is not None))
        known = {where: index for index, where in enumerate(wheres)}

        def order(item: tuple[Place, str]) -> tuple[int, int]:
            return known.get(item[0].where, len(wheres)), item[0].line or 0

        if self.found:
            raise RecipeError(list(dict.fromkeys(text for _, text in sorted(self.found, key=order))))


def as_marked(value: Any, place: Place) -> Marked:
    """A plain value as a marked one, all of it at one place."""
    if isinstance(value, dict):
        return Marked({key: as_marked(item, place) for key, item in value.items()}, place)
    if isinstance(value, list | tuple):
        return Marked([as_marked(item, place) for item in value], place)
    return Marked(value, place)


def shown(node: Marked) -> str:
    """A value in an error message."""
    value = node.plain()
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class RecipeLoader(yaml.SafeLoader):
    """Safe YAML in which ``1e-5`` is a number, as in YAML 1.2, and a date is text."""


class RecipeDumper(yaml.SafeDumper):
    """Writes what RecipeLoader reads back to equal values, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _set_scalars(cls: Any) -> None:
    resolvers = cls.yaml_implicit_resolvers.items()
    cls.yaml_implicit_resolvers = {
        first: [item for item in items if not item[0].endswith(":timestamp")] for first, items in resolvers
    }
    exponent = re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")
    cls.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+0123456789."))


_set_scalars(RecipeLoader)
_set_scalars(RecipeDumper)


def read_yaml(text: str, place: Callable[[int], Place], problems: Problems) -> Marked | None:
    """YAML text as marked values; None where it is not valid. ``place`` makes a Place of a line number."""
    try:
        loader = RecipeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return Marked(None, place(1))
        return _Marker(loader, place, problems).mark(node, place(node.start_mark.line + 1), ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = " ".join(filter(None, (error.context, error.problem)))
        problems.unreadable(place(mark.line + 1 if mark else 1), "", f"not valid YAML: {words}")
    except RecursionError:
        problems.unreadable(place(1), "", "nested too deeply")
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problems.unreadable(place(line), "", f"not valid YAML: character {error.character!r} is not allowed")
    return None


class _Marker:
    """Turns the nodes of one YAML text into Marked values."""

    def __init__(self, loader: RecipeLoader, place: Callable[[int], Place], problems: Problems):
        self.loader, self.place, self.problems = loader, place, problems
        self.open: list[yaml.Node] = []

    def mark(self, node: yaml.Node, place: Place, path: tuple[str, ...]) -> Marked:
        key = ".".join(path)
        if node.tag not in _PLAIN_TAGS:
            self.problems.unreadable(place, key, f"the YAML tag {node.tag!r} is not allowed in a recipe")
            return Marked(BROKEN, place)
        if any(node is outer for outer in self.open):
            self.problems.unreadable(place, key, "the YAML alias contains itself")
            return Marked(BROKEN, place)
        self.open.append(node)
        value = self._value(node, place, path)
        self.open.pop()
        return Marked(value, place)

    def _value(self, node: yaml.Node, place: Place, path: tuple[str, ...]) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.mark(item, self.place(item.start_mark.line + 1), path) for item in node.value]
        try:
            return self.loader.construct_object(node)
        except (ValueError, KeyError):
            kind = node.tag.rpartition(":")[2]
            self.problems.unreadable(place, ".".join(path), f"{node.value!r} is not a YAML {kind}")
            return BROKEN

    def _mapping(self, node: yaml.MappingNode, path: tuple[str, ...]) -> dict[str, Marked]:
        items: dict[str, Marked] = {}
        for key_node, value_node in node.value:
            place = self.place(key_node.start_mark.line + 1)
            if key_node.tag == "tag:yaml.org,2002:merge":
                self.problems.unreadable(place, ".".join(path), "YAML merge keys are not used in recipes; use extends")
                continue
            if key_node.tag != "tag:yaml.org,2002:str":
                text = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
                self.problems.add(place, ".".join((*path, str(text))), "a key must be text; put it in quotes")
                continue
            key = key_node.value
            if key in items:
                self.problems.add(place, ".".join((*path, key)), f"given twice; it also stands at {items[key].place}")
                continue
            items[key] = self.mark(value_node, place, (*path, key))
        return items
