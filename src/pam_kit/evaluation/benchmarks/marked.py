"""The question files of Draw-and-Understand: several marks of one picture in one question. Torch-free.

An entry is ``{image_name, question, question_id, gt_answers or answer, bbox [[x, y, width, height], ...] or points
[[x, y], ...]}`` in pixels; what is expected of the marks stands in one text, "Region 1: ...", one after the other.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pam_kit.errors import BrokenSample
from pam_kit.evaluation.benchmarks.fields import load_list, need, need_text
from pam_kit.evaluation.benchmarks.media import find_media, picture_size
from pam_kit.evaluation.benchmarks.prompting import box_prompt, point_prompt

PAGE = "https://huggingface.co/datasets/Afeng-x/Draw-and-Understand"
# "Region 1:", "<Region 1>:" or, in files of points, "<Mark 1>:", at the beginning of a line.
_MARK = re.compile(r"^[ \t]*<?(?:Region|Mark)[ \t]+(\d+)>?[ \t]*:[ \t]*", re.MULTILINE)


@dataclass(frozen=True)
class MarkedRegion:
    """One mark of a question.

    Args:
        source: where it stands.
        entry: the question.
        number: of the mark, from 1.
        count: how many marks the question has.
    """

    source: str
    entry: Any
    number: int
    count: int

    @property
    def question_id(self) -> str:
        return str(self.entry.get("question_id", ""))

    @property
    def answers(self) -> str:
        """What is expected of all marks, as it stands there."""
        key = "gt_answers" if "gt_answers" in self.entry else "answer"
        return need_text(self.entry, key, self.source)

    def own_answer(self) -> str:
        """What is expected of this mark; raises BrokenSample where that cannot be told."""
        text = self.answers
        parts = split_answers(text)
        if not parts and self.count == 1:
            return text
        if self.number not in parts:
            told = ", ".join(map(str, parts)) or "none"
            raise BrokenSample(self.source, f"no answer for region {self.number} of {self.count}; there are {told}")
        return parts[self.number]

    def place(self, root: Path, places: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
        """The picture, relative to ``root``, and the prompt."""
        image = find_media(root, places, need_text(self.entry, "image_name", self.source), self.source)
        size = picture_size(root / image)
        if "bbox" in self.entry:
            values = need(self.entry, "bbox", list, self.source)[self.number - 1]
            return image, box_prompt(values, "xywh", size, self.source)
        values = need(self.entry, "points", list, self.source)[self.number - 1]
        return image, point_prompt(values, size, self.source)


def marked_regions(path: Path) -> Iterator[MarkedRegion]:
    """Every mark of every question; an entry without marks comes once, and is found out where it is placed."""
    for index, entry in enumerate(load_list(path, "questions, each with image_name and bbox or points"), 1):
        source = f"{path.name}: question {index}"
        marks = entry.get("bbox", entry.get("points")) if isinstance(entry, dict) else None
        count = len(marks) if isinstance(marks, list) and marks else 1
        for number in range(1, count + 1):
            yield MarkedRegion(f"{source}, region {number}" if count > 1 else source, entry, number, count)


def split_answers(text: str) -> dict[int, str]:
    """``"Region 1: cup\\nRegion 2: ball"`` -> ``{1: "cup", 2: "ball"}``; what is said first of a number counts."""
    marks = list(_MARK.finditer(text))
    ends = [*(mark.start() for mark in marks), len(text)][1:]
    found: dict[int, str] = {}
    for mark, end in zip(marks, ends, strict=True):
        found.setdefault(int(mark[1]), text[mark.end() : end].strip())
    return found
