"""Golden numbers of text read off regions."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pam_kit.evaluation.golden.lines import EXACT, Line, compare, compare_scores, guarded, unknown
from pam_kit.evaluation.metrics.protocols import score
from pam_kit.evaluation.metrics.scene_text import published_accuracy, published_region_texts
from pam_kit.evaluation.records import RegionRecord

_TOLERANCES = dict.fromkeys(("exact_lower", "exact_lower_strip", "exact_case"), EXACT)
_RECORDS = "draw_and_understand_records"


def check_scene_text(fixtures: Mapping[str, Any], golden: Mapping[str, Any]) -> Iterator[Line]:
    """The section ``ocr``: ``fixtures`` has ``ocr`` and, for whole answers, ``ocr_region_records``."""
    records = [
        RegionRecord(str(one["id"]), "golden", "", (one["ref"],), one["pred"]) for one in fixtures.get("ocr", ())
    ]
    if "n" in golden:
        yield compare("ocr", "n", {"count": len(records)}, {"count": golden["n"]}, EXACT)
    if "items" in golden or "corpus" in golden:
        yield from guarded("ocr", "all", _regions, records, golden)
    if _RECORDS in golden:
        place = f"ocr/{_RECORDS}"
        several = fixtures.get("ocr_region_records", ())
        yield from guarded(place, "all", _answers, place, several, golden[_RECORDS])
    yield from unknown("ocr", golden, ("n", "items", "corpus", _RECORDS))


def _regions(records: Sequence[RegionRecord], golden: Mapping[str, Any]) -> Iterator[Line]:
    scores = score(records, "ocr")
    chosen = {key: golden[key] for key in ("items", "corpus") if key in golden}
    yield from compare_scores("ocr", chosen, scores.corpus, scores.items, _TOLERANCES)


def _answers(place: str, fixtures: Sequence[Mapping[str, Any]], golden: Mapping[str, Any]) -> Iterator[Line]:
    found = {str(one["id"]): published_region_texts(one["answer"], one["annotation"]) for one in fixtures}
    own: dict[str, dict[str, Any]] = {
        id: {
            "pred_list": list(texts.predicted),
            "gt_list": list(texts.true),
            "lengths_match": texts.matches is not None,
            "matches": texts.matches if texts.matches is None else list(texts.matches),
        }
        for id, texts in found.items()
    }
    tolerances = dict.fromkeys(("pred_list", "gt_list", "lengths_match", "matches"), EXACT)
    yield from compare_scores(place, {"items": golden.get("items", {})}, {}, own, tolerances)
    name = "accuracy_over_matching_records"
    if name in golden:
        own_accuracy = {"all records": published_accuracy(list(found.values()))}
        yield compare(place, name, own_accuracy, {"all records": golden[name]}, EXACT)
    yield from unknown(place, golden, ("items", name))
