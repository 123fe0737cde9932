"""Places that a file proposes: COCO annotations, COCO results, or boxes and points of a detector.

What is read, in pixels of the upright picture:

- an object with ``images`` and ``annotations``, as COCO's instances and keypoints;
- a list of objects with ``image_id``, as COCO's results; the number is that of the picture's file name;
- a list, or JSON lines, of objects with ``image`` (a file's name; left out where there is one picture only).

An object has ``bbox`` (x, y, width, height) or ``box`` (x1, y1, x2, y2); else ``points`` or ``keypoints``; else a
``segmentation``. ``score`` and ``label``, or ``category_id``, may stand beside. An object of a picture may also hold
``boxes`` with ``scores`` and ``labels`` of the same length.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pam_kit.contracts import NEGATIVE_POINT, POSITIVE_POINT, RegionPrompt
from pam_kit.data.masks import MaskError, decode_segmentation
from pam_kit.errors import PamKitError, PromptError
from pam_kit.inference.proposal_names import Called, PictureNames
from pam_kit.inference.proposals import Proposal

_SHOWN = 5


@dataclass(frozen=True)
class _Entry:
    """One proposal as it stands in the file; ``image`` is a name, a number, or None."""

    image: str | int | None
    facts: dict[str, Any]
    source: str


class ProposalFile:
    """What a file proposes for pictures.

    Args:
        path: ``.json`` or ``.jsonl``.

    Raises:
        PamKitError: there is no such file, or what it holds is of none of the forms above.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        content = _content(self.path)
        self._sizes: dict[str, tuple[int, int]] = {}  # of pictures, (W, H), where the file says them
        self._categories: dict[Any, str] = {}
        entries = list(self._instances(content) if isinstance(content, dict) else self._listed(content))
        self._of: dict[str | int | None, list[_Entry]] = {}
        for entry in entries:
            self._of.setdefault(entry.image, []).append(entry)
        told: set[Called | None] = {*self._of, *self._sizes}
        self._names = PictureNames(self.path.name, sorted((name for name in told if name is not None), key=str))

    @property
    def names(self) -> list[str]:
        """The pictures that it is about, as they are called there."""
        return sorted(str(name) for name in {*self._of, *self._sizes} if name is not None)

    @property
    def nameless(self) -> bool:
        """Whether some of it names no picture."""
        return None in self._of

    def called(self, pictures: Sequence[str], root: Path) -> Mapping[str, Called]:
        """Picture -> what it is called here, of those pictures of the folder ``root`` that the file is about.

        Raises PamKitError where a name means several pictures, or a picture may have several names; see PictureNames.
        """
        return self._names.of_all(pictures, root)

    def of(
        self, picture: str, width: int, height: int, alone: bool = False, called: Called | None = None
    ) -> tuple[list[Proposal], list[str]]:
        """The proposals for a picture of this size, and notes on those that are of no use.

        A box or point that reaches over the picture's edge is cut at it. What lies outside is left out with a note.

        Args:
            picture: its path, as far as it is known.
            alone: it is the only one, which proposals without a picture are about.
            called: as in ``called``, where the picture is one of several; None: as the file calls its path.

        Raises:
            PamKitError: the file is about other pictures, about one of another size, or all it proposes lies outside.
        """
        key = self._names.of(picture) if called is None else called
        entries = self._of.get(key, []) if key is not None else []
        if key is None and None in self._of and alone:
            entries = self._of[None]
        elif key is None:
            raise PamKitError(self._unknown(picture))
        if isinstance(key, str) and self._sizes.get(key, (width, height)) != (width, height):
            wide, high = self._sizes[key]
            raise PamKitError(
                f"{self.path.name} proposes regions of {picture} as a picture of {wide}x{high} pixels; it has "
                f"{width}x{height}. Is it another picture, or was it resized or turned?"
            )
        found, notes = [], []
        for entry in entries:
            try:
                found.append(self._proposal(entry, width, height))
            except PromptError as error:
                notes.append(f"{entry.source}: {error}; left out")
        if entries and not found:
            raise PamKitError(
                f"none of the {len(entries)} regions that {self.path.name} proposes for {picture} lies in it; are they "
                f"of another picture? {notes[0]}"
            )
        return found, notes

    def _instances(self, content: dict[str, Any]) -> Iterator[_Entry]:
        images, annotations = content.get("images"), content.get("annotations")
        if not isinstance(images, list) or not isinstance(annotations, list):
            raise PamKitError(f"{self.path} has no images and annotations; expected COCO's instances, or a list")
        names: dict[Any, str] = {}
        for image in images:
            name = str(_needed(image, "file_name", f"{self.path.name}: an image"))
            names[_needed(image, "id", f"{self.path.name}: the image {name}")] = name
            if isinstance(image.get("width"), int) and isinstance(image.get("height"), int):
                self._sizes[name] = (image["width"], image["height"])
        for category in content.get("categories", []):
            self._categories[_needed(category, "id", f"{self.path.name}: a category")] = str(category.get("name"))
        for number, annotation in enumerate(annotations):
            place = f"{self.path.name}: annotation {annotation.get('id', number + 1)}"
            image = _needed(annotation, "image_id", place)
            if image not in names:
                raise PamKitError(f"{place} is of image {image}, which the file does not list")
            yield _Entry(names[image], annotation, place)

    def _listed(self, content: list[tuple[str, Any]]) -> Iterator[_Entry]:
        for place, facts in content:
            if not isinstance(facts, dict):
                raise PamKitError(f"{place}: expected an object with a box, not {type(facts).__name__}")
            image = facts.get("image", facts.get("file_name", facts.get("image_id")))
            if image is not None and not isinstance(image, str | int):
                raise PamKitError(f"{place}: a picture is a name or a number, not {image!r}")
            if "boxes" not in facts:
                yield _Entry(image, facts, place)
                continue
            boxes = facts["boxes"]
            columns = {name[:-1]: facts[name] for name in ("scores", "labels") if name in facts}
            if wrong := [name for name, values in columns.items() if len(values) != len(boxes)]:
                raise PamKitError(f"{place}: {len(boxes)} boxes, but {len(columns[wrong[0]])} {wrong[0]}s")
            for number, box in enumerate(boxes):
                own = {name: values[number] for name, values in columns.items()}
                yield _Entry(image, {"box": box, **own}, f"{place} box {number + 1}")
            if not boxes:
                self._of.setdefault(image, [])

    def _unknown(self, picture: str) -> str:
        names = self.names
        further = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        about = ", ".join(names[:_SHOWN]) + further if names else "pictures without a name"
        return (
            f"{self.path.name} proposes nothing for {picture}: it is about {about}; a name means a picture where one "
            "of their paths is the end of the other"
        )

    def _proposal(self, entry: _Entry, width: int, height: int) -> Proposal:
        """PromptError where nothing of it lies in the picture."""
        facts = entry.facts
        try:
            prompt = _prompt(facts, width, height)
            score = None if facts.get("score") is None else float(facts["score"])
        except (TypeError, ValueError, IndexError, MaskError) as error:
            raise PamKitError(f"{entry.source}: {error}") from None
        label = facts.get("label", self._categories.get(facts.get("category_id")))
        return Proposal(prompt, score=score, source=entry.source, label=None if label is None else str(label))


def _content(path: Path) -> dict[str, Any] | list[tuple[str, Any]]:
    """A whole object, or the entries of a list, or JSON lines, with their places."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PamKitError(f"--proposals {path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise PamKitError(f"--proposals {path} is no text: {error}; expected .json or .jsonl") from None
    if path.suffix.lower() == ".jsonl":
        lines = [(f"{path.name}:{number}", line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        return [(place, _loaded(line, place)) for place, line in lines]
    whole = _loaded(text, str(path))
    if isinstance(whole, dict) and "images" not in whole and "annotations" not in whole:
        return [(path.name, whole)]
    if not isinstance(whole, list | dict):
        raise PamKitError(f"{path} holds {type(whole).__name__}; expected COCO's instances or results, or boxes")
    return whole if isinstance(whole, dict) else [(f"{path.name} entry {n}", one) for n, one in enumerate(whole, 1)]


def _loaded(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise PamKitError(f"{place}: not JSON: {error}") from None


def _needed(facts: Any, key: str, place: str) -> Any:
    if not isinstance(facts, dict) or key not in facts:
        raise PamKitError(f"{place} has no {key!r}; expected COCO's instances")
    return facts[key]


def _prompt(facts: dict[str, Any], width: int, height: int) -> RegionPrompt:
    """ValueError for what is no prompt, PromptError for one that points at nothing in the picture."""
    if facts.get("bbox") is not None or facts.get("box") is not None:
        return RegionPrompt(box=_box(facts, width, height))
    if facts.get("points") or facts.get("keypoints"):
        return _points(facts, width, height)
    if facts.get("segmentation"):
        mask = decode_segmentation(facts["segmentation"], width, height)
        if not mask.any():
            raise PromptError("its mask is empty")
        return RegionPrompt(mask=mask)
    raise ValueError("it has no bbox, box, points, keypoints or segmentation")


def _box(facts: dict[str, Any], width: int, height: int) -> tuple[float, float, float, float]:
    name = "bbox" if facts.get("bbox") is not None else "box"
    values = [float(value) for value in facts[name]]
    if len(values) != 4 or not all(map(math.isfinite, values)):
        form = "x, y, width, height" if name == "bbox" else "x1, y1, x2, y2"
        raise ValueError(f"{name} {facts[name]} is not {form}")
    x1, y1, x2, y2 = values
    if name == "bbox":
        x2, y2 = x1 + x2, y1 + y2
    cut = (max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2))
    if cut[0] >= cut[2] or cut[1] >= cut[3]:
        given = ", ".join(f"{value:g}" for value in (x1, y1, x2, y2))
        raise PromptError(f"the box from ({given}) has nothing in a picture of {width}x{height} pixels")
    return cut


def _points(facts: dict[str, Any], width: int, height: int) -> RegionPrompt:
    """``points``: (x, y) or (x, y, 0 or 1) each; ``keypoints``: x, y and visibility, one behind the other."""
    if facts.get("points"):
        given = [(float(p[0]), float(p[1]), int(p[2]) if len(p) > 2 else POSITIVE_POINT) for p in facts["points"]]
    else:
        flat = [float(value) for value in facts["keypoints"]]
        given = [(x, y, POSITIVE_POINT) for x, y, seen in zip(*(flat[i::3] for i in range(3)), strict=True) if seen]
    inside = [point for point in given if 0 <= point[0] <= width and 0 <= point[1] <= height]
    if wrong := [label for *_, label in given if label not in (NEGATIVE_POINT, POSITIVE_POINT)]:
        raise ValueError(f"a point's label is 1 (inside the region) or 0 (outside), not {wrong[0]}")
    if not any(label == POSITIVE_POINT for *_, label in inside):
        raise PromptError(f"none of its points lies in a picture of {width}x{height} pixels")
    return RegionPrompt(points=tuple((x, y) for x, y, _ in inside), labels=tuple(label for *_, label in inside))
