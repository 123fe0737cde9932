"""Predictions of somebody else: the forms that are read, and what is said of others."""

import json
from dataclasses import replace

import pytest

from pam_kit.errors import PamKitError
from pam_kit.evaluation.predictions.foreign import read_foreign
from pam_kit.evaluation.predictions.ledger import broken
from pam_kit.evaluation.records import RegionRecord


@pytest.fixture
def written(tmp_path):
    """``written(line, ...)`` -> a file of these objects or raw lines."""

    def write(*lines):
        path = tmp_path / "theirs.jsonl"
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        return path

    return write


def test_the_short_form(written):
    path = written(
        {"id": 7, "prediction": "a cup", "references": "cup"},
        "",
        {"id": "b", "prediction": "", "references": ["x", "y"]},
    )
    records, notes = read_foreign(path)
    assert [(one.id, one.prediction, one.references) for one in records] == [
        ("7", "a cup", ("cup",)),
        ("b", "", ("x", "y")),
    ]
    assert notes == ["1 predictions are empty texts"]


def test_whole_regions(written):
    record = RegionRecord("1", "lvis", "What?", ("cup",), "a mug", image="a.png", prompt={"box": [0.0, 1.0, 2.0, 3.0]})
    assert read_foreign(written(record.to_json())) == ([record], [])


def test_the_benchmark_gives_references_order_and_number(written):
    regions = [RegionRecord(str(n), "lvis", "What?", (f"ref {n}",), image="a.png") for n in range(3)]
    path = written({"id": "2", "prediction": "two"}, {"id": 0, "prediction": "zero", "references": ["mine"]})
    records, notes = read_foreign(path, regions)
    assert [(one.id, one.prediction, one.references) for one in records] == [
        ("0", "zero", ("ref 0",)),
        ("1", None, ("ref 1",)),
        ("2", "two", ("ref 2",)),
    ]
    assert notes == ["1 of 3 regions of the benchmark are not in theirs.jsonl; they count as empty texts"]
    with pytest.raises(
        PamKitError, match=r"theirs.jsonl:1: the benchmark has no region '9'; the first of its ids is '0'"
    ):
        read_foreign(written({"id": "9", "prediction": "nine"}), regions)


def test_only_the_regions_that_are_chosen_count(written):
    regions = [RegionRecord(str(n), "lvis", "What?", (f"ref {n}",), image="a.png") for n in range(4)]
    path = written(*({"id": n, "prediction": f"said {n}"} for n in (3, 2, 0)))
    records, notes = read_foreign(path, regions[:2], regions)
    assert [(one.id, one.prediction) for one in records] == [("0", "said 0"), ("1", None)]
    assert notes == [
        "1 of 2 regions of the benchmark are not in theirs.jsonl; they count as empty texts",
        "2 predictions in theirs.jsonl are of regions that are not chosen; they are left out",
    ]
    with pytest.raises(PamKitError, match="none of the 1 regions that are chosen"):
        read_foreign(path, regions[1:2], regions)
    with pytest.raises(PamKitError, match="the benchmark has no region '9'"):
        read_foreign(written({"id": 9, "prediction": ""}), regions[:2], regions)


def test_what_a_run_of_ours_saw_and_could_not_read_is_kept(written):
    region = RegionRecord("0", "lvis", "What?", ("ref",), image="a.png", meta={"mark": 1})
    seen = replace(region, prediction="said", meta={"mark": 2, "predicted": {"iou": 0.5}})
    unread = broken(replace(region, id="1"), "no picture")
    records, notes = read_foreign(written(seen.to_json(), unread.to_json()), [region, replace(region, id="1")])
    assert [one.meta for one in records] == [
        {"mark": 1, "predicted": {"iou": 0.5}},
        {"mark": 1, "broken": "no picture"},
    ]
    assert [one.prediction for one in records] == ["said", None] and notes == ["1 predictions are empty texts"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "theirs.jsonl:1: not JSON"),
        (["[1]"], "theirs.jsonl:1: expected one JSON object a line"),
        ([{"id": "1", "references": ["a"]}], "theirs.jsonl:1: a prediction needs an id and a text"),
        ([{"id": "1", "prediction": 3, "references": ["a"]}], "needs an id and a text"),
        ([{"id": "1", "prediction": "a"}], "there are no references"),
        ([{"id": "1", "prediction": "a", "references": []}], "references must be a list of at least one text"),
        ([{"id": "1", "prediction": "a", "answer": "b", "references": ["a"]}], "unknown key 'answer'"),
        (2 * [{"id": "1", "prediction": "a", "references": ["a"]}], "theirs.jsonl:2: the id '1' comes a second time"),
        ([], "holds no prediction; expected one JSON object a line"),
    ],
)
def test_files_of_another_form(written, lines, message):
    with pytest.raises(PamKitError, match=message):
        read_foreign(written(*lines))


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(PamKitError, match="no file .*; expected one JSON object a line"):
        read_foreign(tmp_path / "nowhere.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "1", "prediction": "caf\xe9", "references": ["a"]}\n')
    with pytest.raises(PamKitError, match="is not UTF-8"):
        read_foreign(tmp_path / "latin.jsonl")
