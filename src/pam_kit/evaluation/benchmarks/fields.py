"""Values out of published files, checked: what is not there or of another kind names its place. Torch-free."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pam_kit.errors import BrokenSample, PamKitError

Kind = TypeVar("Kind")


def load_json(path: Path) -> Any:
    """What a JSON file holds; a PamKitError names the file where it is none."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PamKitError(f"{path} is not a complete JSON file: {error}; download it again") from None


def load_list(path: Path, what: str) -> list[Any]:
    """A JSON file that holds a list of ``what``."""
    return part_of(load_json(path), list, path, f"a list of {what}")


def part_of(value: Any, kind: type[Kind], path: Path, expected: str) -> Kind:
    """``value`` if it is a ``kind``, else a PamKitError: the whole file is something else."""
    if not isinstance(value, kind):
        raise PamKitError(f"{path}: expected {expected}, not {type(value).__name__}")
    return value


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any] | BrokenSample]]:
    """Each filled line's place, such as ``test.jsonl:7``, and its object or what is wrong with it."""
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            source = f"{path.name}:{number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield source, BrokenSample(source, f"invalid JSON: {error}")
                continue
            if isinstance(value, dict):
                yield source, value
            else:
                yield source, BrokenSample(source, f"a line is a JSON object, not {type(value).__name__}")


def need(entry: Any, key: str | int, kind: type[Kind], source: str) -> Kind:
    """``entry[key]``, which has to be a ``kind``; raises BrokenSample."""
    if isinstance(key, int):
        if not isinstance(entry, list) or not -len(entry) <= key < len(entry):
            raise BrokenSample(source, f"expected a list of at least {key + 1}, not {_shown(entry)}")
    elif not isinstance(entry, dict):
        raise BrokenSample(source, f"expected an object with {key!r}, not {_shown(entry)}")
    elif key not in entry:
        raise BrokenSample(source, f"the key {key!r} is missing; there are {', '.join(map(str, entry)) or 'none'}")
    value = entry[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BrokenSample(source, f"{key!r} must be {_NAMES.get(kind, kind.__name__)}, not {_shown(value)}")
    return value


def need_text(entry: Any, key: str, source: str) -> str:
    """``entry[key]`` without the spaces around it; raises BrokenSample where it is no text or empty."""
    text = need(entry, key, str, source).strip()
    if not text:
        raise BrokenSample(source, f"{key!r} is empty")
    return text


def need_number(entry: Any, key: str, source: str) -> int:
    """``entry[key]`` as a whole number, which some files write as a text; raises BrokenSample."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, str) and value.strip().lstrip("-").isascii() and value.strip().lstrip("-").isdigit():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return need(entry, key, int, source)


def need_size(entry: Any, source: str) -> tuple[int, int]:
    """(width, height) of an entry that has both; raises BrokenSample where one is not positive."""
    width, height = need_number(entry, "width", source), need_number(entry, "height", source)
    if width < 1 or height < 1:
        raise BrokenSample(source, f"width and height must be positive, not {width} and {height}")
    return width, height


_NAMES: dict[type, str] = {str: "a text", int: "a whole number", list: "a list", dict: "an object"}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
