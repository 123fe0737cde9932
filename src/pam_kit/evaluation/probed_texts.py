"""The likelihoods of a probe on the disk, a picture a line as they become known, and what of them is still true."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from pam_kit.errors import PamKitError
from pam_kit.evaluation.faithfulness import ProbedPicture, TextFall
from pam_kit.inference.result import prompt_json
from pam_kit.inference.resuming import GrowingLines, whole_lines


class ProbedTexts:
    """A file of JSON lines: first what all likelihoods depend on, then a picture each. A context manager.

    A picture's line holds a hash of all that was looked at and asked: pixels, prompts, masks, questions and texts. It
    is taken up where the hash is the same, wherever it stands; lines of pictures that are not asked for now are kept,
    since a probe may be limited. A former file is replaced whole, or stays as it is.

    Args:
        path: of the file.
        head: what the likelihoods of all pictures depend on, as plain values; ``model`` is the model's SHA-256.
        resume: whether a former file is gone on with.

    Attributes:
        notes: what was found in it that had to be done anew.

    Raises:
        PamKitError: another process writes the file; or it is gone on with, and its head is another one, or nobody
            knows which model it is about now.
    """

    def __init__(self, path: Path, head: Mapping[str, Any], resume: bool):
        self.path, self.head, self.resume = path, json.loads(json.dumps(head)), resume
        self.notes: list[str] = []
        self._lines = GrowingLines(path)
        self._known: dict[str, dict[str, Any]] = {}
        self._now: dict[str, str] = {}  # hash -> picture, of those that were asked for

    def __enter__(self) -> Self:
        self._lines.__enter__()
        try:
            self._take_up()
        except BaseException:
            self._lines.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._leave_out_what_changed()
        finally:
            self._lines.__exit__(kind, error, trace)

    def falls(self, picture: ProbedPicture) -> list[TextFall] | None:
        """What is known of a picture as it is now, or None."""
        key = picture_sha256(picture)
        self._now[key] = picture.source
        line = self._known.get(key)
        return None if line is None else [TextFall(**fall) for fall in line["texts"]]

    def add(self, picture: ProbedPicture, falls: list[TextFall]) -> None:
        """Write what was found out about a picture behind the others."""
        key = picture_sha256(picture)
        line = {"picture": picture.source, "sha256": key, "texts": [fall.to_json() for fall in falls]}
        self._known[key] = line
        self._lines.append([_json(line)])

    def _take_up(self) -> None:
        if not self.resume or not self.path.is_file():
            self._lines.rewrite([_json(self.head)])
            return
        lines, cut = whole_lines(self.path)
        if lines:
            self._check(_parsed(*lines[0], ()))
        for place, text in lines[1:]:
            line = _parsed(place, text, ("picture", "sha256", "texts"))
            self._known[line["sha256"]] = line
        if cut or not lines:
            self.notes += [f"{self.path.name}: {cut}"] * bool(cut)
            self._rewrite()

    def _check(self, before: Mapping[str, Any]) -> None:
        if differing := [key for key in sorted({*before, *self.head}) if before.get(key) != self.head.get(key)]:
            told = "; ".join(f"its {key} is {before.get(key)}, now {self.head.get(key)}" for key in differing)
            raise PamKitError(
                f"{self.path} was begun by another probe: {told}; leave out --resume to begin anew, or give another "
                "--out"
            )
        if self.head.get("model") is None:
            raise PamKitError(
                f"{self.path}: whether its likelihoods are this model's cannot be told, since the model was not loaded "
                "from a run; load it with RegionPredictor.from_run, or do not resume"
            )

    def _leave_out_what_changed(self) -> None:
        sources = set(self._now.values())
        changed = [key for key, line in self._known.items() if line["picture"] in sources and key not in self._now]
        if changed:
            self.notes.append(
                f"{self.path.name}: {len(changed)} of its pictures are another picture now, or asked about otherwise "
                "(pixels, regions, questions or texts); they were probed anew"
            )
            self._known = {key: line for key, line in self._known.items() if key not in changed}
        # As a probe that was never stopped would have it, and behind that what was not asked for.
        order = [key for key in self._now if key in self._known]
        order += [key for key in self._known if key not in self._now]
        if changed or order != list(self._known):
            self._known = {key: self._known[key] for key in order}
            self._rewrite()

    def _rewrite(self) -> None:
        self._lines.rewrite([_json(self.head), *map(_json, self._known.values())])


def picture_sha256(picture: ProbedPicture) -> str:
    """SHA-256 of all that the likelihoods about a picture depend on besides the model and the settings."""
    digest = hashlib.sha256(f"{picture.source} {picture.image.shape}".encode("utf-8", "surrogatepass"))
    digest.update(np.ascontiguousarray(picture.image).tobytes())
    for region in picture.regions:
        asked = [vars(question) for question in region.questions]
        digest.update(json.dumps([region.id, prompt_json(region.prompt), asked]).encode())
        digest.update(b"" if region.mask is None else np.packbits(region.mask).tobytes())
    return digest.hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _parsed(place: str, line: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """A line, with ``keys`` and no others where there are such; PamKitError where it is none."""
    try:
        facts = json.loads(line)
        return {key: facts[key] for key in keys or facts.keys()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PamKitError(f"{place}: no line of a probe ({error}); leave out --resume to begin anew") from error
