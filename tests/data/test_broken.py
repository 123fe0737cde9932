"""The ledger of broken samples: counted, listed once, and the end of a run with too many."""

import json

import numpy as np
import pytest

from pam_kit.data.broken import BrokenLedger, TooManyBrokenSamples
from pam_kit.errors import BrokenSample, PamKitError


def broken(number, reason="bad"):
    return BrokenSample(f"x.jsonl:{number}", reason)


def listed(folder):
    return [json.loads(line) for line in (folder / "broken_samples.jsonl").read_text(encoding="utf-8").splitlines()]


def test_each_is_listed_once_in_the_run_folder(tmp_path):
    ledger = BrokenLedger(tmp_path / "run", max_share=1.0)
    ledger.record(8, [])
    assert not (tmp_path / "run" / "broken_samples.jsonl").exists()
    assert ledger.close() == "8 samples read, none broken"
    ledger.record(8, [broken(1), broken(2, "图片为空")])
    ledger.record(8, [broken(1)])
    expected = [{"source": "x.jsonl:1", "reason": "bad"}, {"source": "x.jsonl:2", "reason": "图片为空"}]
    assert listed(tmp_path / "run") == expected
    assert (ledger.seen, ledger.num_broken) == (24, 3)
    summary = ledger.close()
    assert "24 samples read, 3 of them broken and left out (12.50%)" in summary and "broken_samples.jsonl" in summary


def test_a_resumed_run_continues_the_list(tmp_path):
    BrokenLedger(tmp_path, 1.0).record(4, [broken(1)])
    with open(tmp_path / "broken_samples.jsonl", "a") as file:
        file.write('{"source": "x.js')  # the run was killed here
    BrokenLedger(tmp_path, 1.0).record(4, [broken(1), broken(2)])
    lines = (tmp_path / "broken_samples.jsonl").read_text().splitlines()
    assert lines[1] == '{"source": "x.js'
    assert [json.loads(lines[i])["source"] for i in (0, 2)] == ["x.jsonl:1", "x.jsonl:2"] and len(lines) == 3


def test_too_many_end_the_run_and_say_which(tmp_path):
    ledger = BrokenLedger(tmp_path, max_share=0.01)
    ledger.record(19, [broken(i) for i in range(11)])
    with pytest.raises(TooManyBrokenSamples) as caught:
        ledger.record(1, [broken(11)])
    message = str(caught.value)
    assert isinstance(caught.value, PamKitError)
    assert "12 of 20 samples are broken (60.0%); at most 1.0% are allowed (data.max_broken_share)" in message
    assert str(tmp_path / "broken_samples.jsonl") in message
    assert "x.jsonl:9: bad" in message and "x.jsonl:10" not in message and "and 2 more" in message
    assert len(listed(tmp_path)) == 12


def test_the_end_may_come_with_a_batch_of_sound_samples(tmp_path):
    ledger = BrokenLedger(tmp_path, max_share=0.01)
    ledger.record(10, [broken(i) for i in range(10)])
    with pytest.raises(TooManyBrokenSamples):
        ledger.record(10, [])


def test_one_early_broken_sample_does_not_end_a_large_run(tmp_path):
    ledger = BrokenLedger(tmp_path, max_share=0.01, num_samples=100_000)
    ledger.record(20, [broken(1)])
    for _ in range(100):
        ledger.record(100, [])
    assert ledger.num_broken == 1


@pytest.mark.parametrize("seed", range(20))
def test_a_run_below_the_limit_goes_on_and_one_well_above_it_ends(tmp_path, seed):
    rng = np.random.default_rng(seed)
    sound = BrokenLedger(tmp_path / "sound", max_share=0.01)
    for i, bad in enumerate(rng.random(3000) < 0.004):
        sound.record(1, [broken(i)] if bad else [])
    rotten = BrokenLedger(tmp_path / "rotten", max_share=0.01)
    with pytest.raises(TooManyBrokenSamples):
        for i, bad in enumerate(rng.random(500) < 0.1):
            rotten.record(1, [broken(i)] if bad else [])


def test_with_the_length_known_a_small_dataset_ends_at_once(tmp_path):
    ledger = BrokenLedger(tmp_path, max_share=0.05, num_samples=24)
    ledger.record(4, [broken(1)])
    ledger.record(24, [broken(1)])  # the same one in the next epoch
    with pytest.raises(TooManyBrokenSamples):
        ledger.record(4, [broken(2)])


def test_no_share_allowed(tmp_path):
    with pytest.raises(TooManyBrokenSamples):
        BrokenLedger(tmp_path, max_share=0.0, num_samples=1000).record(1, [broken(1)])


def test_every_share_allowed(tmp_path):
    ledger = BrokenLedger(tmp_path, max_share=1.0, num_samples=30)
    ledger.record(30, [broken(i) for i in range(30)])
    assert "30 of them broken" in ledger.close()
