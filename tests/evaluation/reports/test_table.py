"""Our numbers beside the paper's: scales, what is missing on either side, Markdown and CSV."""

import csv
import io

from pam_kit.evaluation.benchmarks.contract import Headline
from pam_kit.evaluation.reports.results import BenchmarkResult
from pam_kit.evaluation.reports.table import NOT_JUDGED, Row, as_csv, markdown, result_table

HEADLINES = (
    Headline("METEOR", "captions_ptb", 2, "Set METEOR"),
    Headline("CIDEr", "captions_ptb", 2, "Set CIDEr"),
    Headline("grade", "judged", 2, "Set grade", 1.0),
)
PAPER = [Row("PAM-3B", "paper, Table 2", {"Set METEOR": 20.8, "Set CIDEr": 142.3, "Set grade": 3.14})]


def result(**facts) -> BenchmarkResult:
    known = {
        "run": "set-box",
        "benchmark": "set",
        "title": "A set",
        "regions": 7,
        "broken": 0,
        "about": {"model": "mine"},
        "scores": {"captions_ptb": {"METEOR": 0.1234, "CIDEr": 1.431, "BLEU-4": 0.3}},
    }
    return BenchmarkResult(**{**known, **facts})


def lines(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_numbers_are_printed_as_the_paper_does_beside_its_own():
    table = result_table(result(), HEADLINES, PAPER)
    assert lines(markdown([table])) == [
        ["model", "protocol or source", "Set METEOR", "Set CIDEr", "Set grade"],
        ["---", "---", "---:", "---:", "---:"],
        ["mine", "here, captions_ptb", "12.3", "143.1", "–"],
        ["PAM-3B", "paper, Table 2", "20.8", "142.3", "3.14"],
    ]
    assert "captions_ptb, not in the paper, raw scale: BLEU-4 0.3000" in markdown([table])


def test_another_protocol_of_the_same_metric_is_a_row_of_its_own():
    scores = {"captions_ptb": {"METEOR": 0.1, "CIDEr": 1.0}, "captions_no_tokenizer": {"METEOR": 0.2}}
    table = result_table(result(scores=scores), HEADLINES, [])
    assert [table.cells(row)[1:3] for row in table.rows] == [
        ["here, captions_ptb", "10.0"],
        ["here, captions_no_tokenizer", "20.0"],
    ]


def test_two_columns_of_one_metric_are_told_apart_by_their_protocol():
    headlines = (Headline("METEOR", "ours", 3, "A"), Headline("METEOR", "nltk", 3, "B"))
    table = result_table(result(scores={"ours": {"METEOR": 0.1}, "nltk": {"METEOR": 0.2}}), headlines, [])
    assert [dict(row.values) for row in table.rows] == [{"A": 10.0}, {"B": 20.0}]


def test_what_is_not_judged_is_said_in_the_place_of_a_number():
    table = result_table(result(unjudged=("judged",)), HEADLINES, PAPER)
    assert table.cells(table.rows[1]) == ["mine", "here, judged", "–", "–", NOT_JUDGED]
    assert table.warnings == (f"judged: {NOT_JUDGED}",)


def test_what_failed_and_what_is_broken_is_said():
    table = result_table(result(broken=3, failed={"captions_ptb": "no java"}, scores={}), HEADLINES, PAPER)
    text = markdown([table])
    assert "captions_ptb could not be scored: no java" in text and "3 of 7 regions could not be read" in text


def test_predictions_of_something_else_have_the_metrics_as_columns():
    table = result_table(result(benchmark="", title=""), (), [])
    assert table.columns == ("METEOR", "CIDEr", "BLEU-4") and table.title == "set-box" and not table.beside


def test_csv_has_raw_numbers_and_those_that_are_printed():
    one = result(unjudged=("judged",))
    rows = list(csv.DictReader(io.StringIO(as_csv([one], [result_table(one, HEADLINES, PAPER)]))))
    raw = {row["metric"]: float(row["value"]) for row in rows if row["scale"] == "raw"}
    assert raw == {"METEOR": 0.1234, "CIDEr": 1.431, "BLEU-4": 0.3}
    printed = {(row["model"], row["metric"]): float(row["value"]) for row in rows if row["scale"] == "printed"}
    assert printed[("mine", "Set CIDEr")] == 143.1 and printed[("PAM-3B", "Set grade")] == 3.14
    assert ("mine", "Set grade") not in printed


def test_names_with_bars_do_not_break_the_table():
    table = result_table(result(about={"model": "a|b"}), HEADLINES, [])
    assert r"| a\|b | here, captions_ptb |" in markdown([table])
