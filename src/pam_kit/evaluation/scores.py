"""What a prediction is worth: masks by IoU, labels and captions word for word, attributes by what the caption says."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from pam_kit.contracts import Region
from pam_kit.geometry import mask_iou
from pam_kit.inference.result import RegionPrediction

# (caption, attribute, language) -> the attribute's value as the caption states it, or None
AttributeReader = Callable[[str, str, str], str | None]
CAPTION_ATTRIBUTES = ("label", "colour", "texture", "size", "position")


@dataclass
class Score:
    """A mean over ``count`` regions (or pairs of regions), with its standard error."""

    total: float = 0.0
    squares: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total, self.squares, self.count = self.total + value, self.squares + value * value, self.count + 1

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    @property
    def standard_error(self) -> float:
        if self.count < 2:
            return math.nan
        variance = max(0.0, self.squares / self.count - self.mean**2)
        return math.sqrt(variance / (self.count - 1))


@dataclass
class SplitScores:
    """Scores by name of one held-out set under one kind of prompt; add regions picture by picture."""

    read_attribute: AttributeReader | None = None
    scores: dict[str, Score] = field(default_factory=lambda: defaultdict(Score))
    labels: Counter = field(default_factory=Counter)
    colours: Counter = field(default_factory=Counter)

    def add_picture(self, truths: list[Region], predictions: list[RegionPrediction]) -> None:
        """Regions of one picture and what was predicted for each, in the same order."""
        for truth, predicted in zip(truths, predictions, strict=True):
            self._add_region(truth, predicted)
        self._add_pairs(truths, predictions)
        self._add_twins(truths, predictions)
        self._add_guesses(truths)

    def table(self) -> dict[str, dict[str, float]]:
        """name -> mean, standard error, count; majority classes beside what they are the floor of."""
        rows = {n: {"mean": s.mean, "se": s.standard_error, "n": s.count} for n, s in self.scores.items()}
        for name, counter in (("majority label", self.labels), ("majority colour", self.colours)):
            if counter:
                total = sum(counter.values())
                rows[name] = {"mean": counter.most_common(1)[0][1] / total, "se": math.nan, "n": total}
        return rows

    def _add_region(self, truth: Region, predicted: RegionPrediction) -> None:
        if truth.mask is not None:
            self.scores["mask IoU"].add(mask_iou(predicted.mask, truth.mask))
        for language, text in truth.texts.get("recognize", {}).items():
            if language == "en":
                self.labels[normal(text)] += 1
            self._exact("label", "recognize", language, text, predicted)
        if "colour" in truth.attributes:
            self.colours[truth.attributes["colour"]] += 1
        for language, text in truth.texts.get("caption", {}).items():
            self._exact("caption exact", "caption", language, text, predicted)
            self._add_attributes("caption", language, truth, predicted)
        for language in truth.texts.get("describe", {}):
            self._add_attributes("describe", language, truth, predicted, ("position", "relation"))
        for language, text in truth.texts.get("explain", {}).items():
            self._exact("explain exact", "explain", language, text, predicted)

    def _exact(self, name: str, task: str, language: str, text: str, predicted: RegionPrediction) -> None:
        answer = predicted.texts.get(task, {}).get(language)
        if answer is not None:
            self.scores[f"{name} {language}"].add(normal(answer.text) == normal(text))

    def _add_attributes(self, task, language, truth, predicted, names=CAPTION_ATTRIBUTES) -> None:
        answer, read = predicted.texts.get(task, {}).get(language), self.read_attribute
        if answer is None or read is None:
            return
        expected = truth.texts[task][language]
        said = {
            name: read(answer.text, name, language) == truth.attributes[name]
            for name in names
            if name in truth.attributes and read(expected, name, language) is not None
        }
        for name, right in said.items():
            self.scores[f"{task} {name} {language}"].add(right)
        if "label" in said and "colour" in said:
            self.scores[f"{task} label and colour {language}"].add(said["label"] and said["colour"])

    def _add_pairs(self, truths: list[Region], predictions: list[RegionPrediction]) -> None:
        """The prompt moves from one object to another with a different label: does the label follow, or stay?"""
        labels = [normal(truth.texts.get("recognize", {}).get("en", "")) for truth in truths]
        answers = [p.texts.get("recognize", {}).get("en") for p in predictions]
        said = [None if answer is None else normal(answer.text) for answer in answers]
        for i, first in enumerate(labels):
            for j, second in enumerate(labels):
                if i != j and first and second and first != second and said[j] is not None:
                    self.scores["moved prompt: follows"].add(said[j] == second)
                    self.scores["moved prompt: stays"].add(said[j] == first)

    def _add_twins(self, truths: list[Region], predictions: list[RegionPrediction]) -> None:
        """Of an object and another of its kind and another colour: does its caption name the one, or the other?

        Who knows the kind and cannot tell the two apart names both equally often.
        """
        if self.read_attribute is None:
            return
        looks = [(truth.attributes.get("label"), truth.attributes.get("colour")) for truth in truths]
        for own, predicted in zip(looks, predictions, strict=True):
            twins = {other for other in looks if other[0] == own[0] and other[1] not in (own[1], None)}
            if None in own or not twins:
                continue
            for language, answer in predicted.texts.get("caption", {}).items():
                said = tuple(self.read_attribute(answer.text, name, language) for name in ("label", "colour"))
                self.scores[f"twins: itself {language}"].add(said == own)
                self.scores[f"twins: its twin {language}"].add(said in twins)

    def _add_guesses(self, truths: list[Region]) -> None:
        """What the best single answer for the whole picture would score: the ceiling of whoever ignores the prompt."""
        for name, keys in (("label", ("label",)), ("label and colour", ("label", "colour"))):
            known = [truth.attributes for truth in truths if all(key in truth.attributes for key in keys)]
            facts = [tuple(attributes[key] for key in keys) for attributes in known]
            commonest = max(Counter(facts).values(), default=0)
            for i in range(len(facts)):
                self.scores[f"one answer a picture: {name}"].add(i < commonest)


def normal(text: str) -> str:
    """Upper case, outer space and a final full stop do not matter."""
    return text.strip().rstrip(".。").strip().casefold()
