"""Text read off regions: exact matches, and how much of it is right.

Source: the evaluation script Regional_OCR of "Draw-and-Understand", arXiv 2403.20271; 1 - NED as in the ICDAR 2019
competitions on scene text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pam_kit.evaluation.metrics.text_metric import ScoredText, TextMetric, TextScores, mean

# "Region N: something (text)" or "Region N: text", each to the end of a line that is ended.
_ANSWERED = re.compile(r"Region \d+: (?:.*?\((?P<inner>.*?)\)|(?P<whole>.*?))\n")
BLANK = "BLANK"


class TextAccuracy(TextMetric):
    """Shares of regions whose text is read exactly; the best of several references counts.

    ``exact_lower_strip`` without regard to case and blanks around, ``exact_lower`` without regard to case, as the
    published script has it, ``exact_case`` to the letter, and ``one_minus_ned``: 1 less the edit distance over the
    longer length, of texts as in ``exact_lower_strip``.
    """

    @property
    def notes(self) -> tuple[str, ...]:
        """Which of them is the main one."""
        return ("exact_lower_strip is the primary number; exact_lower is that of the published script",)

    def score_texts(self, texts: Sequence[ScoredText]) -> TextScores:
        """The four values."""
        items = [_best([_text_values(text.prediction, true) for true in text.references]) for text in texts]
        return TextScores({name: mean([item[name] for item in items]) for name in items[0]}, items)


def _best(several: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: max(one[name] for one in several) for name in several[0]}


def _text_values(said: str, true: str) -> dict[str, float]:
    lower, true_lower = said.lower().strip(), true.lower().strip()
    longer = max(len(lower), len(true_lower))
    return {
        "exact_lower": float(said.lower() == true.lower()),
        "exact_lower_strip": float(lower == true_lower),
        "exact_case": float(said == true),
        "one_minus_ned": 1 - _edit_distance(lower, true_lower) / longer if longer else 1.0,
    }


def _edit_distance(one: str, other: str) -> int:
    """Insertions, deletions and substitutions that turn one text into the other (Levenshtein)."""
    row = list(range(len(other) + 1))
    for i, character in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, wanted in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (character != wanted))
    return row[-1]


@dataclass(frozen=True)
class RegionTexts:
    """The texts of all regions of a picture, off one answer and one annotation of Draw-and-Understand.

    ``matches``: of each region, without regard to case; None where the two have not equally many, for which the
    published script gives up.
    """

    predicted: tuple[str, ...]
    true: tuple[str, ...]

    @property
    def matches(self) -> tuple[bool, ...] | None:
        if len(self.predicted) != len(self.true):
            return None
        return tuple(said.lower() == true.lower() for said, true in zip(self.predicted, self.true, strict=True))


def published_region_texts(answer: str, annotation: str) -> RegionTexts:
    """As the published script reads them: a last line of the answer that is not ended is lost, no text is ``BLANK``.

    Args:
        answer: lines ``Region N: text``, where text in parentheses at the end of a line is preferred.
        annotation: the same without parentheses; the text ends at the next ``": "``.
    """
    said = [found["inner"] or found["whole"] or BLANK for found in _ANSWERED.finditer(answer)]
    parts = [line.split(": ") for line in annotation.split("\n")]
    return RegionTexts(tuple(said), tuple(part[1] for part in parts if len(part) > 1))


def published_accuracy(records: Sequence[RegionTexts]) -> float | None:
    """Share of matching texts over all pictures with equally many on both sides; None where there is no such text."""
    matches = [match for record in records for match in record.matches or ()]
    return sum(matches) / len(matches) if matches else None
