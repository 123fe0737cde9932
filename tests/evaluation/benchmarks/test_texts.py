"""Answers of several marks, questions with boxes, prefixes, arrays as Python 2 wrote them, boxes of two kinds."""

import pytest

from pam_kit.errors import BrokenSample
from pam_kit.evaluation.benchmark_run import as_scored
from pam_kit.evaluation.benchmarks.ferret import asked
from pam_kit.evaluation.benchmarks.marked import split_answers
from pam_kit.evaluation.benchmarks.prompting import box_prompt, mask_prompt, point_prompt
from pam_kit.evaluation.benchmarks.registry import BENCHMARKS
from pam_kit.evaluation.benchmarks.scene_text import text_words
from pam_kit.evaluation.metrics.protocols import score
from pam_kit.evaluation.records import RegionRecord


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Region 1: cup\nRegion 2: bow_(weapon)", {1: "cup", 2: "bow_(weapon)"}),
        ("<Region 1>: One.\nStill one.\n<Region 2>: Two: and more.\n", {1: "One.\nStill one.", 2: "Two: and more."}),
        ("<Mark 2>: b\n<Mark 1>: a", {1: "a", 2: "b"}),
        ("It lies left of Region 2: so it seems", {}),
        ("Region 1: a\nRegion 1: b", {1: "a"}),
    ],
)
def test_answers_are_split_by_their_marks(text, parts):
    assert split_answers(text) == parts


@pytest.mark.parametrize(
    ("text", "mark", "words"),
    [
        ("What of the object [0.1, 0.2, 0.3, 0.4] here?", 0, "What of this subject here?"),
        ("Describe the bird [0.1, 0.2, 0.3, 0.4] and more?", 0, "Describe the bird (this subject) and more?"),
        ("Is object [0, 0, 1, 1] at the region <region>?", 1, "Is the other marked object at this subject?"),
    ],
)
def test_a_question_is_asked_without_coordinates(text, mark, words):
    assert asked(text, mark) == words


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (" STOP ", "STOP"),
        ("The text is: STOP", "STOP"),
        ("the text on the sign reads : STOP", "STOP"),
        ("It says: STOP", "STOP"),
        ("Label: word: X", "X"),
        ("10:30", "10:30"),
        ("TEL: 555", "TEL: 555"),
        ("Mo: 9 - 5", "Mo: 9 - 5"),
        ("Texts: a", "Texts: a"),
        ("Text:", "Text:"),
        ("", ""),
    ],
)
def test_only_words_that_lead_in_to_what_is_read_are_dropped(said, text):
    assert BENCHMARKS["coco_text"].prepare_answer(said) == text


@pytest.mark.parametrize("word", ["TEL: 555", "Label: X", "a: b: c"])
@pytest.mark.parametrize("name", ["coco_text", "total_text"])
def test_a_perfect_reading_is_right_whatever_it_looks_like(name, word):
    """A sign may say what elsewhere is a lead-in."""
    for said in (word, f" {word.lower()}\n", f"The text is: {word}"):
        record = RegionRecord("1", name, "What is this?", (word,), said)
        assert score(as_scored(BENCHMARKS[name], [record]), "ocr").corpus["exact_lower_strip"] == 1


def test_coordinates_are_dropped_from_answers_of_ferret():
    said = " A dog [0.1, 0.25, 0.3, 1.0] beside a [red] ball [12, 3, 40, 50]. "
    assert BENCHMARKS["ferret"].prepare_answer(said) == "A dog beside a [red] ball."
    assert BENCHMARKS["vg"].prepare_answer("  a dog\n") == "a dog"


def test_words_of_total_text_are_read_as_python_2_wrote_them(tmp_path):
    path = tmp_path / "poly_gt_img9.txt"
    path.write_text(
        "x: [[ 1 20\n  30 4]], y: [[5 6 70 8]], ornt: [u'm'], transcriptions: [u'caf\\xe9']\n"
        "x: [[1 2 3]], y: [[4 5 6]], ornt: [u'c'], transcriptions: [u\"d'or]\"]\n"
        "x: [[1 2 3]], y: [[4 5 6]], ornt: [], transcriptions: []\n",
        encoding="utf-8",
    )
    assert text_words(path) == [
        ([1, 20, 30, 4], [5, 6, 70, 8], "m", "café"),
        ([1, 2, 3], [4, 5, 6], "c", "d'or]"),
        ([1, 2, 3], [4, 5, 6], "", ""),
    ]


def test_boxes_become_corners_inside_the_picture():
    assert box_prompt([10, 20, 30, 40], "xywh", (100, 50), "x") == {"box": [10, 20, 40, 50]}
    assert box_prompt([-5, 2.5, 30, 40], "xyxy", (100, 50), "x") == {"box": [0, 2.5, 30, 40]}
    assert point_prompt([100, 0], (100, 50), "x") == {"points": [[100, 0]], "labels": [1]}
    # The triangle covers the pixels 10 to 19 in both directions.
    square = [[10, 10, 20, 10, 20, 20, 10, 20]]
    assert mask_prompt(square, (100, 50), "box", "x") == {"box": [10, 10, 20, 20]}


@pytest.mark.parametrize(
    ("values", "form", "reason"),
    [
        ([1, 2, 3], "xywh", "4 finite numbers"),
        ([1, 2, float("nan"), 4], "xywh", "4 finite numbers"),
        ([1, 2, True, 4], "xywh", "4 finite numbers"),
        (None, "xywh", "4 finite numbers"),
        ([10, 10, 10, 20], "xyxy", "is empty"),
        ([10, 10, -1, 20], "xywh", "is empty"),
        ([100, 10, 5, 5], "xywh", "no part in a picture of 100x50 pixels"),
    ],
)
def test_a_box_that_is_none_is_named(values, form, reason):
    with pytest.raises(BrokenSample, match=reason) as error:
        box_prompt(values, form, (100, 50), "file.json: entry 3")
    assert error.value.source == "file.json: entry 3"
