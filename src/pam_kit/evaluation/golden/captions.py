"""Golden numbers of captions: tokens, METEOR 1.5 with its statistics, CIDEr-D, ROUGE-L, BLEU, NLTK's METEOR."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pam_kit.evaluation.golden.lines import EXACT, TEXT_TOLERANCE, Line, compare, compare_scores, guarded, unknown
from pam_kit.evaluation.metrics.captions import tokenised
from pam_kit.evaluation.metrics.meteor import meteor
from pam_kit.evaluation.metrics.protocols import score
from pam_kit.evaluation.metrics.text_metric import ScoredText
from pam_kit.evaluation.records import RegionRecord

_METRICS = ("METEOR", "METEOR_segment_mean", "CIDEr", "ROUGE_L", "Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4")
_TOLERANCES = dict.fromkeys(_METRICS, TEXT_TOLERANCE) | {"METEOR_stats": EXACT}
# Part of the golden file -> protocol.
_CAPTIONS = {
    "ptb": "captions_ptb",
    "ptb_first_ref_only": "captions_ptb_first_ref",
    "no_tokenizer": "captions_no_tokenizer",
}
_NLTK = {"smot_preprocessing": "meteor_nltk_smot", "ptb_tokens": "meteor_nltk_ptb"}


def check_captions(fixtures: Sequence[Mapping[str, Any]], golden: Mapping[str, Any]) -> Iterator[Line]:
    """The section ``captions``."""
    records = [_record(one["id"], one["refs"], one["pred"]) for one in fixtures]
    yield from _count("captions", "n", len(records), golden)
    if "ptb_tokens" in golden:
        yield from guarded("captions", "ptb_tokens", _tokens, records, golden["ptb_tokens"])
    yield from _modes("captions", records, golden)
    for name in golden.get("nltk_meteor", {}):
        if name in _NLTK:
            place = f"captions/nltk_meteor/{name}"
            yield from guarded(place, "METEOR_nltk", _nltk, place, records, golden, name)
    yield from unknown("captions/nltk_meteor", golden.get("nltk_meteor", {}), tuple(_NLTK))
    yield from unknown("captions", golden, ("n", "ptb_tokens", "nltk_meteor", *_CAPTIONS))


def check_streaming(fixtures: Sequence[Mapping[str, Any]], golden: Mapping[str, Any]) -> Iterator[Line]:
    """The section ``streaming``: captions of events, named ``video/event``."""
    records = [
        _record(f"{video['video_id']}/{event['event_id']}", [event["gt"]], event["pred"])
        for video in fixtures
        for event in video["annotations"]
    ]
    yield from _count("streaming", "n_videos", len(fixtures), golden)
    yield from _count("streaming", "n_events", len(records), golden)
    yield from _modes("streaming", records, golden)
    yield from unknown("streaming", golden, ("n_videos", "n_events", *_CAPTIONS))


def _record(id: str, references: Sequence[str], prediction: str) -> RegionRecord:
    return RegionRecord(str(id), "golden", "", tuple(references), prediction)


def _count(place: str, name: str, own: int, golden: Mapping[str, Any]) -> Iterator[Line]:
    if name in golden:
        yield compare(place, name, {"count": own}, {"count": golden[name]}, EXACT)


def _tokens(records: Sequence[RegionRecord], golden: Mapping[str, Any]) -> Iterator[Line]:
    predictions, references = tokenised("ptb", _texts(records))
    rows = zip(records, predictions, references, strict=True)
    own = {record.id: {"pred": prediction, "refs": several} for record, prediction, several in rows}
    yield compare("captions", "ptb_tokens", own, golden, EXACT)


def _modes(section: str, records: Sequence[RegionRecord], golden: Mapping[str, Any]) -> Iterator[Line]:
    for name, protocol in _CAPTIONS.items():
        if name in golden:
            place, expected = f"{section}/{name}", golden[name]
            yield from guarded(place, "all", _mode, place, records, expected, protocol)


def _mode(place: str, records: Sequence[RegionRecord], golden: Mapping[str, Any], protocol: str) -> Iterator[Line]:
    scores = score(records, protocol)
    items: dict[str, dict[str, Any]] = {name: dict(values) for name, values in scores.items.items()}
    if any("METEOR_stats" in item for item in golden.get("items", {}).values()):
        for record, statistics in zip(records, _statistics(records, protocol), strict=True):
            items[record.id]["METEOR_stats"] = list(statistics)
    yield from compare_scores(place, golden, scores.corpus, items, _TOLERANCES)


def _statistics(records: Sequence[RegionRecord], protocol: str) -> Sequence[Sequence[float]]:
    tokenizer = "none" if protocol == "captions_no_tokenizer" else "ptb"
    return meteor(*tokenised(tokenizer, _texts(records))).statistics


def _texts(records: Sequence[RegionRecord]) -> list[ScoredText]:
    return [ScoredText(record.id, record.answer, record.references) for record in records]


def _nltk(place: str, records: Sequence[RegionRecord], golden: Mapping[str, Any], name: str) -> Iterator[Line]:
    scores, expected = score(records, _NLTK[name]), golden["nltk_meteor"][name]
    corpus = {"corpus": {"METEOR_nltk": expected["mean"]}} if "mean" in expected else {}
    items = {"items": {id: {"METEOR_nltk": value} for id, value in expected.get("items", {}).items()}}
    tolerances = {"METEOR_nltk": TEXT_TOLERANCE}
    yield from compare_scores(place, {**corpus, **items}, scores.corpus, scores.items, tolerances)
    yield from unknown(place, expected, ("mean", "items"))
