"""Named ways of scoring the regions of a benchmark. Torch-free until something is scored.

A number means something only beside the name of its protocol: the same answers differ by 13 points of semantic IoU
between two ways of cleaning labels, and METEOR is not the same under two tokenizers.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pam_kit.errors import PamKitError
from pam_kit.evaluation.protocol_scores import ProtocolScores
from pam_kit.evaluation.records import RegionRecord
from pam_kit.registry import suggest

if TYPE_CHECKING:
    from pam_kit.evaluation.metrics.text_metric import TextMetric

_CAPTION_METRICS = "METEOR 1.5, CIDEr-D, ROUGE-L, BLEU"

# Name -> what it is, in one line.
PROTOCOLS: dict[str, str] = {
    "osprey": "labels: semantic similarity and IoU, cleaned as by Osprey: what follows a first colon counts",
    "videorefer": "labels: semantic similarity and IoU, cleaned as by VideoRefer: signs to spaces, lower case",
    "draw_and_understand": "labels: semantic similarity and IoU, cleaned as by Draw-and-Understand: the label only",
    "captions_ptb": f"captions: {_CAPTION_METRICS} on PTB tokens, all references",
    "captions_ptb_first_ref": f"captions: {_CAPTION_METRICS} on PTB tokens, the first reference only",
    "captions_no_tokenizer": f"captions: {_CAPTION_METRICS} on words as written, as PAM's streaming script",
    "captions_zh_characters": f"Chinese captions: {_CAPTION_METRICS} on characters; METEOR without synonyms",
    "captions_zh_jieba": "Chinese captions: CIDEr-D, ROUGE-L, BLEU on words that jieba cuts",
    "meteor_nltk_smot": "captions: NLTK's METEOR as in BenSMOT's script, mean of regions; not METEOR 1.5",
    "meteor_nltk_ptb": "captions: NLTK's METEOR on PTB tokens, mean of regions; not METEOR 1.5",
    "ocr": "scene text: share of regions read exactly, without regard to case and blanks around",
}


def score(records: Sequence[RegionRecord], protocol: str, device: str | None = None) -> ProtocolScores:
    """What ``protocol`` says of the predictions in ``records``; a missing prediction counts as the empty text.

    Args:
        records: all regions of one benchmark together; CIDEr and METEOR of parts do not add up to that of the whole.
        protocol: one of ``PROTOCOLS``.
        device: where sentence embeddings are computed; by default a GPU where there is one.

    Raises:
        PamKitError: an unknown protocol, no record, an id that comes twice, or a package, Java or data that is missing.
    """
    plan = _plan(protocol)
    if not records:
        raise PamKitError(f"there is no region to score with {protocol}")
    ids = [record.id for record in records]
    if twice := [name for name, count in Counter(ids).items() if count > 1]:
        raise PamKitError(f"the region {twice[0]!r} comes twice in what {protocol} is to score; merge the files first")
    if plan.first_reference_only:
        records = [replace(record, references=record.references[:1]) for record in records]
    corpus: dict[str, float] = {}
    items: dict[str, dict[str, float | None]] = {name: {} for name in ids}
    notes: list[str] = []
    for metric in plan.metrics():
        metric = metric.to(device or _best_device())
        metric.update([record.answer for record in records], [record.references for record in records], ids)
        corpus |= {name: float(value) for name, value in metric.compute().items()}
        for name, values in metric.items().items():
            items[name].update(values)
        notes += metric.notes
    return ProtocolScores(protocol, corpus, items, (*notes, *_warnings(records, protocol)))


@dataclass(frozen=True)
class _Plan:
    metrics: "Callable[[], Sequence[TextMetric]]"
    first_reference_only: bool = False


def _plan(protocol: str) -> _Plan:
    """Imports late, so that names and descriptions come without torch."""
    if protocol not in PROTOCOLS:
        raise PamKitError(f"no protocol {protocol!r}{suggest(protocol, PROTOCOLS, 'protocols')}")
    if protocol == "ocr":
        from pam_kit.evaluation.metrics.scene_text import TextAccuracy

        return _Plan(lambda: [TextAccuracy()])
    if protocol.startswith("meteor_nltk_"):
        from pam_kit.evaluation.metrics.nltk_meteor import NltkMeteor

        return _Plan(lambda: [NltkMeteor(protocol.removeprefix("meteor_nltk_"))])
    if protocol.startswith("captions_"):
        return _caption_plan(protocol)
    from pam_kit.evaluation.metrics.labels import SemanticIoU, SemanticSimilarity

    return _Plan(lambda: [SemanticSimilarity(protocol), SemanticIoU(protocol)])


def _caption_plan(protocol: str) -> _Plan:
    from pam_kit.evaluation.metrics.captions import CaptionScore

    if protocol == "captions_zh_jieba":
        return _Plan(lambda: [CaptionScore("zh_jieba", ("CIDEr", "ROUGE_L", "Bleu"))])
    tokenizers = {"captions_no_tokenizer": "none", "captions_zh_characters": "zh_characters"}
    tokenizer = tokenizers.get(protocol, "ptb")
    return _Plan(lambda: [CaptionScore(tokenizer)], protocol == "captions_ptb_first_ref")


def _warnings(records: Sequence[RegionRecord], protocol: str) -> list[str]:
    found = []
    if silent := sum(record.prediction is None for record in records):
        found.append(f'{silent} of {len(records)} regions have no prediction and count as ""')
    chinese = sum(record.language == "zh" for record in records)
    if chinese and protocol.startswith(("captions_ptb", "captions_no", "meteor_nltk")):
        found.append(f"{chinese} regions are Chinese, a sentence of which is one word here: see captions_zh_characters")
    return found


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
