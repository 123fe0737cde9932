"""``${data.root}`` in a recipe: the value of another of its keys. Nothing else is looked up, nothing is evaluated."""

import re
from collections.abc import Iterator
from typing import Any

from pam_kit.recipe.marked_yaml import BROKEN, Marked, Problems, as_marked

_PART = "[A-Za-z0-9_-]+"
_REFERENCE = re.compile(rf"(?<!\\)\$\{{({_PART}(?:\.{_PART}|\[{_PART}\])*)\}}")
_Path = tuple[str | int, ...]


def interpolate(root: Marked, problems: Problems) -> None:
    """Replace every ``${key}`` by the value of that key, in place; one that cannot be found is a problem.

    Resolvers such as ``${oc.env:HOME}`` are refused: a recipe must mean the same everywhere.
    """
    leaves = [(node, path) for node, path in _leaves(root, ()) if isinstance(node.value, str) and "${" in node.value]
    for node, path in leaves:
        if "${" in _REFERENCE.sub("", node.value):
            text = (
                f"{node.value!r}: only ${{section.key}} is understood, the value of another key; no resolver, no escape"
            )
            problems.add(node.place, _key(path), text)
            node.value = BROKEN
    leaves = [(node, path) for node, path in leaves if node.value is not BROKEN]
    if leaves:
        _resolve(root, leaves, problems)


def _resolve(root: Marked, leaves: list[tuple[Marked, _Path]], problems: Problems) -> None:
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    config = OmegaConf.create(_without_broken(root))
    for node, path in leaves:
        try:
            value = config
            for part in path:
                value = value[part]
            value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            wrong = _unfit_inside_text(node.value, config)
        except OmegaConfBaseException as error:
            reason = str(error).partition("\n")[0]
            # A value that is still missing is reported where it is missing, once.
            reported = isinstance(error, MissingMandatoryValue) or "MissingMandatoryValue" in reason
            if not (reported or (problems.incomplete and "not found" in reason)):
                problems.add(node.place, _key(path), f"{node.value}: {reason}")
            value, wrong = BROKEN, ""
        if wrong:
            problems.add(node.place, _key(path), f"{node.value}: {wrong}")
        node.value = BROKEN if wrong else as_marked(value, node.place).value


def _unfit_inside_text(text: str, config: Any) -> str:
    """What is wrong with a reference that is only a part of ``text``; empty where nothing is."""
    from omegaconf import OmegaConf

    for match in _REFERENCE.finditer(text):
        value = OmegaConf.select(config, match[1])
        if match[0] == text:
            continue
        if value is None:
            return f"{match[1]} is null here; give it, for example on the command line: {match[1]}=..."
        if OmegaConf.is_config(value):
            return f"{match[1]} is a list or a section, which cannot stand inside text"
    return ""


def _leaves(node: Marked, path: _Path) -> Iterator[tuple[Marked, _Path]]:
    items: Any = ()
    if isinstance(node.value, dict):
        items = node.value.items()
    elif isinstance(node.value, list):
        items = enumerate(node.value)
    else:
        yield node, path
    for key, item in items:
        yield from _leaves(item, (*path, key))


def _without_broken(node: Marked) -> Any:
    if isinstance(node.value, dict):
        return {key: _without_broken(item) for key, item in node.value.items()}
    if isinstance(node.value, list):
        return [_without_broken(item) for item in node.value]
    return None if node.value is BROKEN else node.value


def _key(path: _Path) -> str:
    return ".".join(part for part in path if isinstance(part, str))
