"""Replies of judges, read as the published scripts do and as they are meant: against the golden file and by hand."""

import json
from pathlib import Path

import pytest

from pam_kit.evaluation.judging import parsers
from pam_kit.evaluation.judging.aggregates import (
    dimension_means,
    published_relative_score,
    relative_score,
    reply_tables,
)

GOLDEN = Path(__file__).parents[4] / "shared" / "golden" / "eval"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"the golden evaluation files are not in {GOLDEN}")


@needs_golden
@pytest.mark.parametrize("section", ["videorefer_bench_d", "pairwise", "g_stdc", "tolerant_pam_kit"])
def test_every_golden_reply_reads_as_it_should(section):
    replies = json.loads((GOLDEN / "fixtures_public.json").read_text(encoding="utf-8"))["judge_replies"]
    expected = json.loads((GOLDEN / "golden_public.json").read_text(encoding="utf-8"))["judge"][section]
    expected.pop("note", None)
    assert json.loads(json.dumps(reply_tables(replies)[section])) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("7 8", (7, 8)),
        ("**7 8**\nmore", (7, 8)),
        ("\n\n[7, 8]", (7, 8)),
        ("7.5\t8.25\r\nmore", (7.5, 8.25)),
        ("assistant 1 : 10; ASSISTANT 2: 1", (10, 1)),
        ("7 8\\nwritten-out line end", (7, 8)),
        ("7", None),
        ("7 8 9", None),
        ("0 8", None),
        ("8 11", None),
        ("8 -7", None),
        ("8/10 7/10", None),
        ("Scores below.\n7 8", None),
        ("", None),
        ("  \n ", None),
    ],
)
def test_pair_needs_two_scores_in_range_on_the_first_line(reply, expected):
    assert parsers.pair(reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Continuity Score: 0", 0),
        ("**continuity score** : [5]", 5),
        ("Continuity Score:\n4", 4),
        ("Continuity Score:\n2. Explanation: none", None),
        ("Continuity Score: 2. The potter changes.", 2),
        ("Continuity Score: 5.5", None),
        ("Discontinuity Score: 3", None),
        ("Continuity Score: high", None),
        ("", None),
    ],
)
def test_continuity_is_a_named_number_in_range(reply, expected):
    assert parsers.continuity(reply) == expected


def test_a_dimension_without_a_number_does_not_take_that_of_the_next_item():
    read = parsers.dimensions("3. Temporal Description:\n4. Hallucination Detection: 5")
    assert read["Temporal Description"] is None and read["Hallucination Detection"] == 5


def test_published_videorefer_drops_a_reply_with_a_number_that_is_none():
    assert parsers.published_videorefer("1. Subject Correspondence: ..\n2. Appearance Description: 4") is None
    assert dimension_means([None, {"Subject Correspondence": 2.0}])["Subject Correspondence"] == {
        "mean": 2.0,
        "count": 1,
    }


def test_published_pairs_differ_only_in_blanks_around_the_line():
    assert parsers.published_pair_ferret(" 8 7") == parsers.FAILED_PAIR
    assert parsers.published_pair_lmms_eval(" 8 7") == (8, 7)
    assert parsers.published_pair_lmms_eval("8\t7") == parsers.FAILED_PAIR


def test_relative_score_is_a_ratio_of_means():
    pairs = [(10.0, 5.0), (2.0, 4.0)]
    assert relative_score(pairs) == pytest.approx(75.0)  # the mean of the ratios is 125
    assert published_relative_score([(3.0, 1.0), (3.0, 1.0), (3.0, 2.0)], 1) == 44.4
    assert relative_score([]) is None and published_relative_score([]) is None
    assert published_relative_score([(1.0, 5.0), parsers.FAILED_PAIR]) is None


def test_means_of_no_replies_are_unknown():
    table = dimension_means([])
    assert table["Average"] is None and table["Temporal Description"] == {"mean": None, "count": 0}
