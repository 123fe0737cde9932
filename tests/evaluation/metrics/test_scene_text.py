"""Text read off regions: exact matches, edit distances, and whole answers as the published script reads them."""

import pytest

from pam_kit.evaluation.metrics.scene_text import TextAccuracy, published_accuracy, published_region_texts


def values(said, *true):
    metric = TextAccuracy()
    metric.update([said], [true], ["x"])
    return metric.items()["x"]


@pytest.mark.parametrize(
    ("said", "true", "lower", "strip", "case"),
    [
        ("Exit", "EXIT", 1, 1, 0),
        (" exit\n", "EXIT", 0, 1, 0),
        ("EXIT.", "EXIT", 0, 0, 0),
        ("straße", "STRASSE", 0, 0, 0),  # lower case, not folded case
        ("ＡＢ", "AB", 0, 0, 0),
        ("", "", 1, 1, 1),
    ],
)
def test_exact_matches(said, true, lower, strip, case):
    found = values(said, true)
    assert (found["exact_lower"], found["exact_lower_strip"], found["exact_case"]) == (lower, strip, case)


@pytest.mark.parametrize(
    ("said", "true", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("flaw", "lawn", 2), ("出囗", "出口", 1), ("A", "a", 0)],
)
def test_edit_distance_over_the_longer_length(said, true, distance):
    assert values(said, true)["one_minus_ned"] == pytest.approx(1 - distance / max(len(said), len(true)))


def test_edit_distance_is_that_of_torchmetrics():
    from torchmetrics.functional.text import edit_distance

    pairs = [("the text is bakery", "bakery"), ("abcabc", "cabacb"), ("x", "yyyx"), ("no. 7", "no 17.")]
    for said, true in pairs:
        expected = 1 - float(edit_distance(said, true)) / max(len(said), len(true))
        assert values(said, true)["one_minus_ned"] == pytest.approx(expected, abs=1e-6)


def test_the_best_reference_counts_and_no_text_on_both_sides_is_right():
    assert values("exit", "way out", "Exit")["exact_lower"] == 1
    assert values(" ", "")["one_minus_ned"] == 1


def test_whole_answers():
    answer = "Region 1: the sign (EXIT)\nRegion 2: (a) b\nRegion 3: \nRegion 4: ()\nRegion 10: 7:30\nRegion 11: lost"
    annotation = "Region 1: exit\nno region\nRegion 2: a: b\nRegion 3: \nRegion 4: x\nRegion 10: 7:30"
    texts = published_region_texts(answer, annotation)
    assert texts.predicted == ("EXIT", "(a) b", "BLANK", "BLANK", "7:30")
    assert texts.true == ("exit", "a", "", "x", "7:30")
    assert texts.matches == (True, False, False, False, True)


def test_answers_of_other_lengths_are_left_out_of_the_accuracy():
    right = published_region_texts("Region 1: a\nRegion 2: b\n", "Region 1: A\nRegion 2: c")
    short = published_region_texts("Region 1: a", "Region 1: a")
    assert short.predicted == () and short.matches is None
    assert published_accuracy([right, short]) == 0.5
    assert published_accuracy([short]) is None
