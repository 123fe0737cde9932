"""Lists of labels that a model chooses from: names, and the words that stand for each. Torch-free."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pam_kit.data.coco_names import COCO_ZH
from pam_kit.errors import PamKitError

# COCO's 80 categories are numbered from 1 to 90; these numbers are of things that were never annotated.
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


@dataclass(frozen=True)
class Label:
    """One label of a list.

    Args:
        name: what it is called in results; no other of the list is called so.
        texts: the words that a model may say for it, at least one.
    """

    name: str
    texts: tuple[str, ...]

    @classmethod
    def plain(cls, name: str) -> "Label":
        """One that is said as it is called."""
        return cls(name, (spoken(name),))


def spoken(name: str) -> str:
    """A category's name as words: ``garden_hose`` is said "garden hose". Colons and brackets stay."""
    return " ".join(name.replace("_", " ").split())


def read_labels(source: str, language: str = "en", synonyms: bool = False) -> list[Label]:
    """The labels that a name or a file stands for.

    ``coco`` is the 80 categories of COCO, in English or Chinese. A ``.json`` file is one of annotations as COCO, LVIS
    and PACO write them: the names of its ``categories``. Any other file is text, a label a line: its name, and behind
    tabs the words for it, where these are others.

    Args:
        source: ``coco`` or a file.
        language: of COCO's names; files are taken as they are.
        synonyms: of an annotation file, also say the ``synonyms`` that LVIS gives of a category.

    Raises:
        PamKitError: there is no such file, it holds no labels, or a name stands in it twice.
    """
    if source == "coco":
        return [Label(name, (name if language == "en" else chinese,)) for name, chinese in COCO_ZH.items()]
    path = Path(source)
    if not path.is_file():
        raise PamKitError(
            f"--labels {source}: no such file; give coco, an annotation file with categories (.json), or a text file "
            "with a label a line"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PamKitError(f"{source} is no text: {error}") from error
    labels = _categories(text, source, synonyms) if path.suffix.lower() == ".json" else _lines(text)
    return checked_labels(labels, source)


def label_numbers(source: str, names: list[str]) -> dict[str, int]:
    """The number of each label of a list: a category's ``id``, as COCO or an annotation file has it; else its place.

    ``source`` is what ``read_labels`` was given.
    """
    if source == "coco":
        return dict(zip(names, (number for number in range(1, 91) if number not in _COCO_GAPS), strict=True))
    if Path(source).suffix.lower() != ".json":
        return {name: number for number, name in enumerate(names, 1)}
    categories = json.loads(Path(source).read_text(encoding="utf-8-sig"))["categories"]
    try:
        return {str(category["name"]): int(category["id"]) for category in categories}
    except (KeyError, TypeError, ValueError) as error:
        raise PamKitError(f"{source}: a category has no number ({error}); expected COCO's categories") from error


def checked_labels(labels: list[Label], source: str) -> list[Label]:
    """The same; PamKitError where there are fewer than two, a name stands twice, or a label has no words."""
    if len(labels) < 2:
        raise PamKitError(f"{source}: {len(labels)} labels; there is nothing to choose between")
    name, count = Counter(label.name for label in labels).most_common(1)[0]
    if count > 1:
        raise PamKitError(f"{source}: the label {name!r} stands {count} times in the list; its names must differ")
    for label in labels:
        if not label.texts or not all(text.strip() for text in label.texts):
            raise PamKitError(f"{source}: the label {label.name!r} has no words")
    return labels


def _lines(text: str) -> list[Label]:
    labels = []
    for line in text.splitlines():
        name, *texts = (part.strip() for part in line.split("\t"))
        if name or texts:
            labels.append(Label(name, tuple(texts)) if texts else Label.plain(name))
    return labels


def _categories(text: str, source: str, synonyms: bool) -> list[Label]:
    try:
        categories = json.loads(text)["categories"]
        labels = []
        for category in categories:
            own, name = category.get("synonyms") if synonyms else None, str(category["name"])
            words = dict.fromkeys(spoken(said) for said in (name, *(own or ())))
            labels.append(Label(name, tuple(words)))
    except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
        raise PamKitError(
            f"{source} is no annotation file: expected a JSON object with categories, each with a name ({error})"
        ) from error
    return labels
