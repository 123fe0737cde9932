"""Golden numbers of labels: how they are cleaned, semantic similarity and semantic IoU."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pam_kit.evaluation.golden.lines import EXACT, SIMILARITY_TOLERANCE, Line, compare, compare_scores, guarded, unknown
from pam_kit.evaluation.metrics.labels import NORMALISATIONS
from pam_kit.evaluation.metrics.protocols import score
from pam_kit.evaluation.records import RegionRecord

_TOLERANCES = {
    "pred_norm": EXACT,
    "ref_norm": EXACT,
    "semantic_similarity": SIMILARITY_TOLERANCE,
    "semantic_iou": EXACT,
}


def check_labels(fixtures: Sequence[Mapping[str, Any]], golden: Mapping[str, Any]) -> Iterator[Line]:
    """The section ``labels``."""
    records = [RegionRecord(str(one["id"]), "golden", "", (one["ref"],), one["pred"]) for one in fixtures]
    if "n" in golden:
        yield compare("labels", "n", {"count": len(records)}, {"count": golden["n"]}, EXACT)
    for name, expected in golden.get("protocols", {}).items():
        place = f"labels/{name}"
        if name in NORMALISATIONS:
            yield from guarded(place, "all", _protocol, name, place, records, expected)
        else:
            yield Line(place, "all", skipped=True, reason="no such way of cleaning labels here")
    yield from unknown("labels", golden, ("n", "protocols"))


def _protocol(name: str, place: str, records: Sequence[RegionRecord], golden: Mapping[str, Any]) -> Iterator[Line]:
    scores = score(records, name)
    items: dict[str, dict[str, Any]] = {}
    for record in records:
        said, label = NORMALISATIONS[name](record.answer, record.references[0])
        items[record.id] = {"pred_norm": said, "ref_norm": label, **scores.items[record.id]}
    yield from compare_scores(place, golden, scores.corpus, items, _TOLERANCES)
