"""Two answers side by side, a stored one and the model's: Ferret-Bench without the picture, MDVP-Bench with it.

Sources: You et al., "Ferret", 2023, section 5 (Ferret-Bench); Lin et al., "Draw-and-Understand", 2024 (MDVP-Bench).
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pam_kit.errors import PamKitError
from pam_kit.evaluation.judging import parsers
from pam_kit.evaluation.judging.aggregates import mean, published_relative_score, relative_score
from pam_kit.evaluation.judging.asking import Question, Reading, Verdict
from pam_kit.evaluation.judging.endpoint import Messages
from pam_kit.evaluation.judging.items import DOMAIN_GROUPS, DOMAINS, Item, grouped_items
from pam_kit.evaluation.judging.marked_picture import data_url, marked_picture
from pam_kit.evaluation.judging.parsers import Pair
from pam_kit.evaluation.records import RegionRecord
from pam_kit.registry import suggest

_ROLE = "You check the quality of answers. Be helpful to those who compare them: precise, fair and consistent."
_BLIND = (
    "The question is about marked places in a picture that you do not see. The context tells you what it shows; boxes "
    "are [x1, y1, x2, y2], as shares of the picture's width and height. Take the context for true."
)
_SEEING = (
    "The question is about the marks in the picture. They are drawn in green, and the number of each stands beside it "
    "in white on black; Region 1 is the mark with number 1, and so on."
)
_GRADES = (
    "Grade the answers of Assistant 1 and Assistant 2 to this question. What counts: {criteria}. Give each one grade "
    "from 1 to 10; the better the answer, the higher the grade. Neither their order nor their mere length may matter. "
    "Your first line holds the two grades and nothing else: that of Assistant 1, one space, that of Assistant 2. "
    "Explain them from the second line on."
)
_CRITERIA = "helpfulness, relevance, accuracy and level of detail"
_PLACE = "whether it speaks of the right place and of how things lie to each other (spatial correspondence), "
_CONTEXTS = {
    "natural": "The picture shows a scene of the real world.",
    "ocr_doc": "The picture is a document, and its text matters.",
    "ocr_spotting": "The picture has text in it, which matters.",
    "android": "The picture is a screenshot of an app on a phone.",
    "web": "The picture is a screenshot of a web page.",
    "multipanel": "The picture is made of several panels, each a picture of its own.",
}
# Coordinates in an answer, with the space before them: Ferret-Bench removes them from what is compared.
_COORDINATES = re.compile(r" \[[^\]\n]*\]")
_SWAPPED = " / swapped"


class PairwiseFerret:
    """Ferret-Bench, referring description: one question, its boxes told in words, and two answers.

    Args:
        swap_average: ask a second time with the answers in the other order, and average.
    """

    name = "pairwise_ferret"
    asks = "100 * mean grade of the model's answers / mean grade of the reference's; the judge sees no picture"

    def __init__(self, swap_average: bool = False):
        self.swap_average = swap_average
        self.items: list[Item] = []

    def questions(self, records: Iterable[RegionRecord]) -> list[Question]:
        """A question for each item, or two of them."""
        self.items = grouped_items(records, "mark")
        self.check()
        orders = (False, True) if self.swap_average else (False,)
        return [self._question(item, swapped) for item in self.items for swapped in orders]

    def check(self) -> None:
        """Find what is missing before the first call."""
        for item in self.items:
            item.need("context")

    def scores(self, verdicts: Sequence[Verdict]) -> tuple[dict[str, float | None], dict[str, Reading]]:
        """The relative score, and the grades of each item."""
        grades = self.grades(verdicts)
        corpus = {
            "relative_score": relative_score(_pairs(grades.values())),
            "relative_score_reference_compat": published_relative_score(list(self.published(verdicts).values()), 1),
        }
        return corpus, grades

    def grades(self, verdicts: Sequence[Verdict]) -> dict[str, Reading]:
        """Of each item; means over both orders where both were asked for, None where one is missing."""
        found = {verdict.id: verdict.scores for verdict in verdicts}
        if not self.swap_average:
            return found
        return {item.id: _average(found[item.id], found[item.id + _SWAPPED]) for item in self.items}

    def published(self, verdicts: Sequence[Verdict]) -> dict[str, Pair]:
        """Of each item, what the published scripts read in the first reply; swapped orders they do not know."""
        replies = {verdict.id: verdict.first_reply for verdict in verdicts}
        first = [(item.id, replies[item.id]) for item in self.items]
        return {name: parsers.published_pair_ferret(one.text) if one else parsers.FAILED_PAIR for name, one in first}

    def instructions(self, item: Item) -> str:
        return f"{_BLIND} {_GRADES.format(criteria=_PLACE + _CRITERIA)}"

    def context(self, item: Item) -> str:
        return item.need("context")

    def answer(self, item: Item) -> str:
        texts = [_COORDINATES.sub("", record.answer) for record in item.records]
        return texts[0] if len(texts) == 1 else item.numbered(texts)

    def reference(self, item: Item) -> str:
        texts = [record.references[0] for record in item.records]
        return item.text("reference_answer", texts[0] if len(texts) == 1 else item.numbered(texts))

    def content(self, item: Item, text: str) -> object:
        """What the judge is told: words, and pictures where it sees any."""
        return text

    def _question(self, item: Item, swapped: bool) -> Question:
        def messages() -> Messages:
            return [
                {"role": "system", "content": _ROLE},
                {"role": "user", "content": self.content(item, self._blocks(item, swapped))},
            ]

        if swapped:
            return Question(item.id + _SWAPPED, messages, _read_swapped)
        return Question(item.id, messages, _read)

    def _blocks(self, item: Item, swapped: bool) -> str:
        one, other = self.reference(item), self.answer(item)
        if swapped:
            one, other = other, one
        blocks = (
            f"[Context]\n{self.context(item)}",
            f"[Question]\n{item.text('judge_question', item.first.question)}",
            f"[Assistant 1]\n{one}\n[End of Assistant 1]",
            f"[Assistant 2]\n{other}\n[End of Assistant 2]",
            f"[System]\n{self.instructions(item)}",
        )
        return "\n\n".join(blocks)


class PairwiseMdvp(PairwiseFerret):
    """MDVP-Bench: the judge sees the picture with numbered marks. A score for each file, the mean of its files for
    each of four groups of domains, and the mean of the groups.

    Args:
        root: the folder that the records' pictures are relative to.
        swap_average: as for Ferret-Bench.
    """

    name = "pairwise_mdvp"
    asks = "as Ferret-Bench, with the marked picture; a file's score, its group's mean, and the mean of the four groups"

    def __init__(self, root: Path, swap_average: bool = False):
        super().__init__(swap_average)
        self.root = root

    def check(self) -> None:
        for item in self.items:
            item.need("file")
            if (domain := item.need("domain")) not in DOMAINS:
                raise PamKitError(f"{item.id}: unknown domain {domain!r}{suggest(domain, DOMAINS, 'choose of')}")
            if not (self.root / item.first.image).is_file():
                raise PamKitError(f"{item.id}: no picture {self.root / item.first.image} to show to the judge")
        kinds = {"box" if record.prompt.get("box") else "points" for item in self.items for record in item.records}
        if len(kinds) > 1:
            raise PamKitError("some regions are marked by boxes and some by points; judge them apart, as two numbers")

    def scores(self, verdicts: Sequence[Verdict]) -> tuple[dict[str, float | None], dict[str, Reading]]:
        grades, published = self.grades(verdicts), self.published(verdicts)
        corpus: dict[str, float | None] = {}
        for suffix in ("", "_reference_compat"):
            groups: dict[str, list[float | None]] = {}
            for file, items in self._files().items():
                score = (
                    published_relative_score([published[item.id] for item in items])
                    if suffix
                    else relative_score(_pairs(grades[item.id] for item in items))
                )
                corpus[file + suffix] = score
                groups.setdefault(DOMAINS[items[0].need("domain")], []).append(score)
            means = {name: _mean_of_all(groups.get(name, [])) for name in DOMAIN_GROUPS}
            corpus |= {name + suffix: means[name] for name in groups}
            corpus[f"relative_score{suffix}"] = _mean_of_all(list(means.values()))
        return corpus, grades

    def instructions(self, item: Item) -> str:
        return f"{_SEEING} {_GRADES.format(criteria=_CRITERIA)}"

    def context(self, item: Item) -> str:
        return _CONTEXTS[item.need("domain")]

    def answer(self, item: Item) -> str:
        return item.numbered([record.answer for record in item.records])

    def reference(self, item: Item) -> str:
        return item.text("reference_answer", item.numbered([record.references[0] for record in item.records]))

    def content(self, item: Item, text: str) -> object:
        prompts = {number: record.prompt for number, record in zip(item.marks, item.records, strict=True)}
        jpeg = marked_picture(self.root / item.first.image, prompts)
        picture = {"type": "image_url", "image_url": {"url": data_url(jpeg), "detail": "high"}}
        return [{"type": "text", "text": text}, picture]

    def _files(self) -> dict[str, list[Item]]:
        files: dict[str, list[Item]] = {}
        for item in self.items:
            files.setdefault(item.need("file"), []).append(item)
        return files


def _read(reply: str) -> Reading:
    first, second = parsers.pair(reply) or (None, None)
    return {"reference": first, "answer": second}


def _read_swapped(reply: str) -> Reading:
    first, second = parsers.pair(reply) or (None, None)
    return {"reference": second, "answer": first}


def _average(one: Reading, other: Reading) -> Reading:
    return {
        name: None if (a := one[name]) is None or (b := other[name]) is None else (a + b) / 2
        for name in ("reference", "answer")
    }


def _pairs(grades: Iterable[Reading]) -> list[Pair]:
    return [(a, b) for one in grades if (a := one["reference"]) is not None and (b := one["answer"]) is not None]


def _mean_of_all(scores: Sequence[float | None]) -> float | None:
    """None where one is missing: a mean of the others would be that of another benchmark."""
    known = [score for score in scores if score is not None]
    return mean(known) if len(known) == len(scores) else None
