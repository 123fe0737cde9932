"""Questions about marked places, rated by a judge: Ferret-Bench, referring description. Torch-free."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pam_kit.errors import BrokenSample, PamKitError
from pam_kit.evaluation.benchmarks.contract import Benchmark, Headline, Reading, Variant
from pam_kit.evaluation.benchmarks.fields import json_lines, load_list, need, need_number, need_text
from pam_kit.evaluation.benchmarks.lvis import COCO_PAGE
from pam_kit.evaluation.benchmarks.media import find_media, picture_size
from pam_kit.evaluation.benchmarks.prompting import box_prompt
from pam_kit.evaluation.records import RegionRecord

_PAGE = "https://github.com/apple/ml-ferret (ferret/eval/ferret_gpt4_data/refer_caption)"
_BOX = r"\[\s*\d*\.?\d+(?:\s*,\s*\d*\.?\d+){3}\s*\]"
_BOXES = re.compile(_BOX)
# What stands for a place in a question, with the words that introduce it.
_PLACE = re.compile(rf"(?P<introduced>(?:\bthe\s+)?\b(?:object|region)s?\s+)?(?:{_BOX}|<region>)", re.IGNORECASE)
SUBJECT, OTHER = "this subject", "the other marked object"


class Ferret(Benchmark):
    """Forty questions on pictures of COCO; the paper's Table 2."""

    name = "ferret"
    title = "Ferret-Bench, referring description"
    variants = (
        Variant(
            "ferret",
            ("question.jsonl", "answer.jsonl", "context.jsonl"),
            "questions with boxes in their words, answers of GPT-4, and what it was told",
            _PAGE,
        ),
        Variant(
            "osprey",
            ("box_refer_caption.json", "answer.jsonl", "context.jsonl"),
            "Osprey's questions with one box each, beside Ferret's answers and contexts",
            "https://github.com/CircleRadon/Osprey (osprey/eval/ferret-bench)",
        ),
    )
    media = ("val2017", "images/val2017", "images", "")
    media_page = f"{COCO_PAGE} (val2017)"
    task = "describe"
    protocols = ("pairwise_ferret",)
    headlines = (Headline("relative_score", "pairwise_ferret", 2, "Ferret-Bench referring description", 1.0),)
    decisions = (
        f"a question is asked with {SUBJECT!r} in the place of its box, which is the prompt; a question with two boxes "
        f"is asked about each, where the other one is {OTHER!r}, and both answers are judged together",
        "which model judged PAM's answers besides 'GPT-4o' is not published",
    )

    def prepare_answer(self, text: str, references: Sequence[str] = ()) -> str:
        """Without coordinates in brackets, as the published scripts do."""
        return re.sub(rf"\s*{_BOX}", "", text).strip()

    def _regions(self, reading: Reading) -> Iterator[tuple[str, Callable[[], RegionRecord | None]]]:
        questions, *others = (reading.files(name)[0] for name in reading.variant.files)
        answers, contexts = (_texts_by_question(path) for path in others)
        if reading.variant.name == "osprey":
            entries: Iterator[tuple[str, Any]] = (
                (f"{questions.name}: question {index}", entry)
                for index, entry in enumerate(load_list(questions, "questions with annotation"), 1)
            )
        else:
            entries = json_lines(questions)
        for source, entry in entries:
            for mark in range(max(1, len(_BOXES.findall(str(_text(entry)))))):
                yield source, partial(self._question, reading, source, entry, mark, answers, contexts)

    def _question(self, reading: Reading, source: str, entry: Any, mark: int, answers, contexts) -> RegionRecord:
        if isinstance(entry, BrokenSample):
            raise entry
        number = need_number(entry, "question_id", source)
        text = need_text(entry, "text", source)
        for what, texts in (("answer", answers), ("context", contexts)):
            if number not in texts:
                raise BrokenSample(source, f"there is no {what} for question {number}")
        image = find_media(reading.root, self.media, need_text(entry, "image", source), source)
        size = picture_size(reading.root / image)
        meta = {
            "context": contexts[number],
            "mark": mark + 1,
            "judge_question": text,
            "reference_answer": answers[number],
            "question_id": number,
        }
        return self._record(
            f"{number}:{mark + 1}",
            [answers[number]],
            question=asked(text, mark),
            image=image,
            prompt=_prompt(entry, text, mark, size, source),
            group=f"{number}",
            meta=meta,
        )


def asked(text: str, mark: int) -> str:
    """The question about its place number ``mark``, counted from 0, in words that need no coordinates.

    "the object [...]" becomes "this subject", "the bird [...]" becomes "the bird (this subject)".
    """
    number = iter(range(len(_PLACE.findall(text))))

    def name(found: re.Match[str]) -> str:
        words = SUBJECT if next(number) == mark else OTHER
        return words if found["introduced"] else f"({words})"

    return _PLACE.sub(name, text)


def _prompt(entry: Any, text: str, mark: int, size: tuple[int, int], source: str) -> dict[str, Any]:
    boxes = _BOXES.findall(text)
    if boxes:
        x1, y1, x2, y2 = (float(v) for v in boxes[mark].strip("[] ").split(","))
        return box_prompt([x1 * size[0], y1 * size[1], x2 * size[0], y2 * size[1]], "xyxy", size, source)
    if "annotation" not in entry:
        raise BrokenSample(source, f"no box [x1, y1, x2, y2] in the question {text!r}")
    return box_prompt(need(entry, "annotation", dict, source).get("bbox"), "xywh", size, source)


def _texts_by_question(path: Path) -> dict[int, str]:
    found = {}
    for source, line in json_lines(path):
        if isinstance(line, BrokenSample):
            raise PamKitError(str(line))
        found[need_number(line, "question_id", source)] = need_text(line, "text", source)
    return found


def _text(entry: Any) -> Any:
    return entry.get("text", "") if isinstance(entry, dict) else ""
