"""Labels against labels: semantic similarity and semantic IoU, under the three published ways of cleaning them.

Sources: Conti et al., "Vocabulary-free Image Classification", arXiv 2306.00917 (semantic IoU); Yuan et al., "Osprey",
arXiv 2312.10032 (both, for regions); their and their followers' evaluation scripts for the cleaning.
"""

from collections.abc import Callable, Sequence
from typing import Any

from pam_kit.errors import PamKitError
from pam_kit.evaluation.metrics.sentences import SentenceEncoder
from pam_kit.evaluation.metrics.text_metric import ScoredText, TextMetric, TextScores, mean


def _osprey(prediction: str, label: str) -> tuple[str, str]:
    prediction = prediction.strip()
    if ":" in prediction:
        prediction = prediction.split(":")[1]
    return _spaced(prediction, ".:,"), _spaced(label, "_:")


def _videorefer(prediction: str, label: str) -> tuple[str, str]:
    signs = "_:,.()"
    return _spaced(prediction, signs).strip().lower(), _spaced(label, signs).strip().lower()


def _draw_and_understand(prediction: str, label: str) -> tuple[str, str]:
    return prediction, _spaced(label, "_:")


# Name -> (prediction, label) -> both as they are compared.
NORMALISATIONS: dict[str, Callable[[str, str], tuple[str, str]]] = {
    "osprey": _osprey,
    "videorefer": _videorefer,
    "draw_and_understand": _draw_and_understand,
}


class _LabelMetric(TextMetric):
    """Of each item, the value of its best label, and the mean of those."""

    name = ""

    def __init__(self, normalisation: str = "osprey", **kwargs):
        super().__init__(**kwargs)
        if normalisation not in NORMALISATIONS:
            raise PamKitError(f"no normalisation {normalisation!r} of labels; there are {', '.join(NORMALISATIONS)}")
        self.normalisation = normalisation

    def score_texts(self, texts: Sequence[ScoredText]) -> TextScores:
        """The metric's value under its name."""
        normalise = NORMALISATIONS[self.normalisation]
        pairs = [normalise(text.prediction, label) for text in texts for label in text.references]
        values = iter(self.values(pairs))
        items = [max(next(values) for _ in text.references) for text in texts]
        return TextScores({self.name: mean(items)}, [{self.name: value} for value in items])

    def values(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Of normalised pairs of prediction and label."""
        raise NotImplementedError


class SemanticSimilarity(_LabelMetric):
    """Cosine of the sentence embeddings of prediction and label, in [-1, 1]; the best of several labels counts.

    An empty prediction is worth about 0.2, not 0: that is what its embedding says, and what the published scripts say.

    Args:
        normalisation: one of ``NORMALISATIONS``.
        model: the folder of another sentence encoder than all-MiniLM-L6-v2, with mean pooling.
        kwargs: those of ``torchmetrics.Metric``.
    """

    name = "semantic_similarity"

    def __init__(self, normalisation: str = "osprey", model: str | None = None, **kwargs: Any):
        super().__init__(normalisation, **kwargs)
        self.encoder = SentenceEncoder(model)

    @property
    def notes(self) -> tuple[str, ...]:
        """The encoder's name."""
        return (f"semantic_similarity: cosine of sentence embeddings of {self.encoder.name}",)

    def values(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Cosines, of texts as they are written."""
        texts = [text for pair in pairs for text in pair]
        vectors = self.encoder.embed(texts, self.device)
        return (vectors[0::2] * vectors[1::2]).sum(1).tolist()


class SemanticIoU(_LabelMetric):
    """Words in common over words in either, of lower-cased texts split at white space, in [0, 1]; 0 for no words.

    A Chinese label is one word. The best of several labels counts.

    Args:
        normalisation: one of ``NORMALISATIONS``.
        kwargs: those of ``torchmetrics.Metric``.
    """

    name = "semantic_iou"

    @property
    def notes(self) -> tuple[str, ...]:
        """How labels are cleaned."""
        return (f"labels cleaned as in the script of {self.normalisation}",)

    def values(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Sets of words against sets of words."""
        return [_word_iou(*pair) for pair in pairs]


def _word_iou(prediction: str, label: str) -> float:
    said, true = set(prediction.lower().split()), set(label.lower().split())
    return len(said & true) / len(said | true) if said or true else 0.0


def _spaced(text: str, signs: str) -> str:
    return text.translate(dict.fromkeys(map(ord, signs), " "))
