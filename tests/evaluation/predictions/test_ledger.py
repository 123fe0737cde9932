"""Predictions on the disk: what a killed process leaves, what is taken up again, and what is missing."""

import pytest

from pam_kit.errors import PamKitError
from pam_kit.evaluation.predictions.ledger import BROKEN, SEEN, PredictionFile, broken
from pam_kit.evaluation.predictions.merging import check_complete, merged, predicted
from pam_kit.evaluation.predictions.units import cut_units
from pam_kit.evaluation.records import RegionRecord, read_records
from pam_kit.inference.shard import Shard

REGIONS = {str(n): RegionRecord(str(n), "any", "What?", ("a",), image=f"{n}.png", meta={"n": n}) for n in range(6)}
WHOLE = Shard()


def said(number: int) -> RegionRecord:
    return REGIONS[str(number)].with_prediction(f"text {number}\nin two lines 杯")


@pytest.fixture
def started(tmp_path):
    """A file with three predictions."""
    with PredictionFile(tmp_path, WHOLE, REGIONS) as file:
        file.add([said(0), said(1)])
        file.add([said(1), said(2)])
    return file.path


def test_predictions_are_kept_line_by_line_and_never_twice(started, tmp_path):
    assert list(read_records(started)) == [said(0), said(1), said(2)]
    with PredictionFile(tmp_path, WHOLE, REGIONS) as file:
        assert file.done == {"0": said(0), "1": said(1), "2": said(2)} and not file.notes
        file.add([said(2), said(5)])
    assert [one.id for one in read_records(started)] == ["0", "1", "2", "5"]


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_last_line_that_was_cut_off_is_dropped_with_a_note(started, tmp_path, cut):
    started.write_bytes(started.read_bytes()[:-cut])
    with PredictionFile(tmp_path, WHOLE, REGIONS) as file:
        assert sorted(file.done) == ["0", "1"]
        assert len(file.notes) == 1 and "its last line was cut off" in file.notes[0]
        file.add([said(2)])
    assert list(read_records(started)) == [said(0), said(1), said(2)]


def test_a_line_in_the_middle_that_is_none_is_an_error_with_its_place(started, tmp_path):
    lines = started.read_text().splitlines(keepends=True)
    started.write_text(lines[0] + '{"id": "1", "benchm\n' + lines[2])
    with pytest.raises(PamKitError, match=r"part_1_of_1.jsonl:2: not JSON"), PredictionFile(tmp_path, WHOLE, REGIONS):
        pass


def test_regions_that_could_not_be_read_are_tried_again(started, tmp_path):
    with PredictionFile(tmp_path, WHOLE, REGIONS) as file:
        file.add([broken(REGIONS["3"], "no such picture")])
    assert predicted(tmp_path, list(REGIONS.values()))["3"].meta[BROKEN] == "no such picture"
    with PredictionFile(tmp_path, WHOLE, REGIONS) as file:
        assert "3" not in file.done and file.notes == ["1 regions that could not be read are tried again"]
        file.add([said(3)])
    assert predicted(tmp_path, list(REGIONS.values()))["3"] == said(3)


@pytest.mark.parametrize("change", [{"prompt": {"box": [0, 0, 1, 1]}}, {"question": "Who?"}, {"image": "other.png"}])
def test_predictions_of_regions_that_have_changed_are_made_anew(started, tmp_path, change):
    now = REGIONS | {"1": RegionRecord(**{**REGIONS["1"].__dict__, **change})}
    with PredictionFile(tmp_path, WHOLE, now) as file:
        assert sorted(file.done) == ["0", "2"] and "regions that have changed since" in file.notes[0]


def test_a_run_of_fewer_regions_leaves_the_predictions_of_the_others(started, tmp_path):
    few = {"1": REGIONS["1"], "4": REGIONS["4"]}
    started.write_bytes(started.read_bytes() + b'{"id": "4", "ben')
    with PredictionFile(tmp_path, WHOLE, few) as file:
        assert list(file.done) == ["1"] and len(file.notes) == 1
        file.add([said(4)])
    assert list(read_records(started)) == [said(0), said(1), said(2), said(4)]


def test_only_one_process_writes_a_file(tmp_path):
    with PredictionFile(tmp_path, WHOLE, REGIONS):
        with pytest.raises(PamKitError, match="another process is writing"), PredictionFile(tmp_path, WHOLE, REGIONS):
            pass
        with PredictionFile(tmp_path, Shard(1, 2), REGIONS):
            pass


def test_all_parts_together_in_the_order_of_the_benchmark(tmp_path):
    for number, ids in ((1, [4, 0, 2]), (2, [5, 1, 3])):
        with PredictionFile(tmp_path, Shard(number, 2), REGIONS) as file:
            file.add(map(said, ids))
    records = [RegionRecord(**{**one.__dict__, "references": ("b", "c")}) for one in REGIONS.values()]
    whole = merged(records, predicted(tmp_path, records))
    assert [one.id for one in whole] == list("012345")
    # References are those of the benchmark now; the text is what was said.
    assert all(one.references == ("b", "c") and one.prediction == said(int(one.id)).prediction for one in whole)


def test_what_was_seen_stays_with_the_prediction(tmp_path):
    seen = RegionRecord(**{**said(0).__dict__, "meta": {"n": 7, SEEN: {"iou": 0.5}}})
    with PredictionFile(tmp_path, WHOLE, REGIONS) as file:
        file.add([seen])
    one = REGIONS["0"]
    assert merged([one], predicted(tmp_path, [one]))[0].meta == {"n": 0, SEEN: {"iou": 0.5}}


def test_missing_parts_are_named(tmp_path):
    records = list(REGIONS.values())
    units = cut_units(records, pictures=1)
    with PredictionFile(tmp_path, Shard(1, 3), REGIONS) as file:
        file.add([said(0), said(3)])
    with PredictionFile(tmp_path, Shard(2, 3), REGIONS) as file:
        file.add([said(1)])
    with pytest.raises(PamKitError, match=r"1 of part 2/3, 2 of part 3/3; run .* --shard 2/3 and --shard 3/3"):
        check_complete(units, predicted(tmp_path, records), 3, tmp_path)
    with PredictionFile(tmp_path, WHOLE, REGIONS) as file:
        file.add(map(said, (2, 4, 5)))
    check_complete(units, predicted(tmp_path, records), 3, tmp_path)
