"""A golden file, section by section."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pam_kit.errors import PamKitError
from pam_kit.evaluation.golden.captions import check_captions, check_streaming
from pam_kit.evaluation.golden.judge import check_judge
from pam_kit.evaluation.golden.labels import check_labels
from pam_kit.evaluation.golden.lines import Line, guarded
from pam_kit.evaluation.golden.scene_text import check_scene_text

_FACTS = ("split", "meta")
# Section -> what it is compared with of all fixtures, and the comparison.
_SECTIONS: dict[str, tuple[Callable[[Mapping[str, Any]], Any], Callable[..., Iterator[Line]]]] = {
    "labels": (lambda fixtures: fixtures.get("labels", ()), check_labels),
    "captions": (lambda fixtures: fixtures.get("captions", ()), check_captions),
    "ocr": (lambda fixtures: fixtures, check_scene_text),
    "streaming": (lambda fixtures: fixtures.get("streaming", ()), check_streaming),
    "judge": (lambda fixtures: fixtures.get("judge_replies", {}), check_judge),
}


def check(fixtures: Mapping[str, Any], golden: Mapping[str, Any]) -> Iterator[Line]:
    """A line for every metric of every protocol in ``golden``, computed from ``fixtures``.

    A section that the golden file lacks is none to compare; one that nothing here knows is a skipped line.
    """
    for name, expected in golden.items():
        if name in _FACTS:
            continue
        if name not in _SECTIONS:
            yield Line(name, "all", skipped=True, reason="nothing here knows this section")
            continue
        chosen, compare_section = _SECTIONS[name]
        yield from guarded(name, "all", compare_section, chosen(fixtures), expected)


def read_pair(fixtures: Path, golden: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both files. Raises PamKitError where one is missing or no JSON object, or they are of two splits."""
    found = [_read(path) for path in (fixtures, golden)]
    splits = [one.get("split") for one in found]
    if splits[0] != splits[1]:
        raise PamKitError(f"{fixtures.name} is of the split {splits[0]!r}, {golden.name} of {splits[1]!r}; name a pair")
    return found[0], found[1]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PamKitError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise PamKitError(f"{path} holds {type(found).__name__}; expected a JSON object with sections such as captions")
    return found
