"""Stages of an answer: timed once each, counted, and the model is left as it was."""

import json
import time

import numpy as np
import pytest

from pam_kit.bench.comparison import compare
from pam_kit.bench.measured_inference import Bench
from pam_kit.bench.models import pictures, prompts
from pam_kit.bench.roofline_share import shares
from pam_kit.bench.stage_times import StageTimes, watched
from pam_kit.bench.works import STAGES, ModelChoice, Work
from pam_kit.kernels.cards import Card, known_card
from pam_kit.kernels.counting import Launch, Recorder


def test_of_nested_stages_the_outer_counts():
    times = StageTimes("cpu")
    with times.stage("encode"):
        time.sleep(0.02)
        with times.stage("segment"):
            time.sleep(0.02)
    with times.stage("segment"):
        pass
    assert times.seconds["encode"] >= 0.04 and times.seconds["segment"] < 0.02


def test_a_stage_that_fails_is_over():
    times = StageTimes("cpu")
    with pytest.raises(ValueError), times.stage("encode"):
        raise ValueError
    with times.stage("decode"):
        pass
    assert set(times.seconds) == {"encode", "decode"}


@pytest.mark.parametrize("path", ["kit", "plain"])
def test_stages_cover_an_answer(chosen, recipe, path):
    bench = Bench(ModelChoice(recipe=recipe), path, "cpu")
    own = {name: set(vars(part)) for name, part in (("model", bench.model), ("backbone", bench.model.backbone))}
    found = bench.time(Work(regions=2, questions=2, max_new_tokens=5))
    assert set(found.stages_ms) == set(STAGES) and all(value > 0 for value in found.stages_ms.values())
    assert sum(found.stages_ms.values()) <= 1000 * found.seconds and found.tokens == 2 * 2 * 5
    assert own == {"model": set(vars(bench.model)), "backbone": set(vars(bench.model.backbone))}
    assert not {"start_reading", "generate"} & set(vars(bench.model.decoder))


def test_watching_changes_no_answer(chosen, recipe):
    bench = Bench(ModelChoice(recipe=recipe), "kit", "cpu")
    work = Work(regions=3, questions=2, max_new_tokens=5)
    asked = (prompts(work), *work.asked, work.max_new_tokens)
    with watched(bench.model, times := StageTimes("cpu")):
        session = bench._predictor.open(*pictures(work))
        seen = [session.ask(*asked), session.ask(*reversed_first(asked))]
    unseen = bench._predictor.open(*pictures(work)).ask(*asked)
    told = [[one.texts for one in regions] for regions in (*seen, unseen)]
    assert told[0] == told[2] and [texts["recognize"]["en"].text for texts in told[1]] == [
        texts["recognize"]["en"].text for texts in reversed(told[0])
    ]
    assert times.tokens == 2 * 3 * 2 * 5


def reversed_first(asked: tuple) -> tuple:
    """The same regions in the opposite order: what was read of them is put together anew."""
    return (list(reversed(asked[0])), *asked[1:])


def test_kernels_are_counted_by_stage(chosen, recipe):
    bench, recorder = Bench(ModelChoice(recipe=recipe), "plain", "cpu"), Recorder()
    times = StageTimes("cpu", recorder)
    work = Work(max_new_tokens=2)
    with recorder, watched(bench.model, times):
        bench._done(work, pictures(work), prompts(work), times)
    assert set(times.launches) == set(STAGES)
    head = 2 * bench.model.decoder.vocabulary_size * bench.model.decoder.embed_dim
    # Each of both passes ends in the product with the vocabulary: of all positions, and of a single one.
    assert max(launch.flops for launch in times.launches["decode"]) == head
    assert max(launch.flops for launch in times.launches["prefill"]) % head == 0


def test_the_share_is_least_time_over_measured_time():
    card = Card(operations=100.0, bandwidth=10.0)
    launches = {"encode": [Launch("mm", 10, 400), Launch("add", 20)], "decode": [Launch("mm", 50, 100)]}
    # 4 s of operations and 2 s of bytes; 5 s of bytes.
    assert shares(launches, {"encode": 12.0, "decode": 10.0, "segment": 1.0}, card) == pytest.approx(
        {"encode": 0.5, "decode": 0.5, "all": 11 / 22}
    )
    assert shares({}, {}, card) == {}


def test_the_share_of_a_known_card(chosen, recipe, monkeypatch):
    bench = Bench(ModelChoice(recipe=recipe), "kit", "cpu")
    work = Work(max_new_tokens=2)
    assert bench.time(work, with_roofline=True).roofline is None
    monkeypatch.setattr(Bench, "facts", lambda self: {"device": "NVIDIA A100-SXM4-80GB"})
    found = bench.time(work, with_roofline=True).roofline
    assert set(found) == {*STAGES, "all"} and all(0 < share < 1 for share in found.values())


@pytest.mark.parametrize(
    ("device", "operations", "bandwidth"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12, 2.04e12),
        ("NVIDIA H100 80GB HBM3", 989e12, 3.35e12),
        ("NVIDIA H200", 989e12, 4.8e12),
        ("NVIDIA L4", 121e12, 0.3e12),
        ("NVIDIA A10", 125e12, 0.6e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12, 1.008e12),
    ],
)
def test_cards_are_known_by_their_names(device, operations, bandwidth):
    assert known_card(device) == Card(operations, bandwidth)


@pytest.mark.parametrize("device", ["CPU", "NVIDIA A10G", "NVIDIA L40S", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"])
def test_a_name_that_holds_a_known_one_is_another_card(device):
    assert known_card(device) is None


def outcome(path, **changes) -> str:
    whole = {
        "masks": np.zeros((2, 4, 4), dtype=bool),
        "unsure": np.zeros((2, 4, 4), dtype=bool),
        "scores": np.array([[0.5, 0.9], [0.4, 0.8]]),
        "logits": np.ones((2, 1, 1), dtype=np.float32),
        "texts": np.array(["a cup", "a ball"]),
        "forks": np.array(["[]", "[]"]),
        "exact": True,
    }
    np.savez(path, **whole | changes)
    return str(path)


def test_outcomes_are_compared_in_every_part(tmp_path):
    plain = outcome(tmp_path / "plain.npz")
    assert compare(outcome(tmp_path / "same.npz"), plain).same
    flipped = np.zeros((2, 4, 4), dtype=bool)
    flipped[1, 2, 3] = True
    assert compare(outcome(tmp_path / "mask.npz", masks=flipped), plain).pixels == 1
    unsure = outcome(tmp_path / "unsure.npz", unsure=flipped)
    assert compare(outcome(tmp_path / "mask.npz", masks=flipped), unsure).same, "a logit of 0 may fall on either side"
    other = outcome(tmp_path / "texts.npz", texts=np.array(["a cup", "a bal"]))
    assert compare(other, plain).texts == 1 and not compare(other, plain).same
    near, far = (
        outcome(tmp_path / f"{gap}.npz", scores=np.array([[0.5 + gap, 0.9], [0.4, 0.8]])) for gap in (5e-5, 5e-4)
    )
    assert compare(near, plain).same and not compare(far, plain).same
    for gap, same in ((5e-5, True), (2e-4, False), (np.nan, False)):
        logits = outcome(tmp_path / "logits.npz", logits=np.float32([[[1]], [[1 + gap]]]))
        assert compare(logits, plain).same is same and compare(logits, plain).pixels == 0, "masks look the same"
    fewer = outcome(tmp_path / "fewer.npz", texts=np.array(["a cup"]))
    assert not compare(fewer, plain).same


def tied(*forks: tuple[str, bool]) -> str:
    return json.dumps([{"said": said, "whole": whole} for said, whole in forks])


@pytest.mark.parametrize(
    ("said", "forks", "ties"),
    [
        ("a bat flies", [("a bat", False)], 1),  # the second likeliest word, and what follows
        ("a bat", [("a bat", True)], 1),
        ("a bat flies", [("a bat", True)], 0),  # it would have ended there
        ("a bin", [("a bat", False)], 0),  # neither of the two likeliest
        ("a bal", [("a bat", False), ("a bal", False)], 1),  # a later fork of an answer that agrees up to there
        ("one", [("a bat", False)], 0),  # what comes before is the same
    ],
)
def test_a_tie_is_an_answer_that_says_the_second_likeliest_word(tmp_path, said, forks, ties):
    plain = outcome(tmp_path / "plain.npz", forks=np.array(["[]", tied(*forks)]))
    found = compare(outcome(tmp_path / "kit.npz", texts=np.array(["a cup", said])), plain)
    assert (found.ties, found.texts, found.same) == (ties, 1 - ties, bool(ties))


@pytest.mark.parametrize(
    ("count", "ties", "exact", "same"),
    [(2, 1, True, True), (39, 2, True, False), (40, 2, True, True), (40, 3, True, False), (40, 30, False, True)],
)
def test_ties_are_few_in_float32(tmp_path, count, ties, exact, same):
    said, other = np.array([f"a {n}" for n in range(count)]), [f"b {n}" for n in range(ties)]
    forks = np.array([tied((f"b {n}", True)) for n in range(count)])
    plain = outcome(tmp_path / "plain.npz", texts=said, forks=forks, exact=exact)
    found = compare(outcome(tmp_path / "kit.npz", texts=np.array([*other, *said[ties:]])), plain)
    assert (found.ties, found.texts, found.same) == (ties, 0, same)
