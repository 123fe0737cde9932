"""Captions against references: METEOR 1.5, CIDEr-D, ROUGE-L and BLEU, on tokens that are named.

The arithmetic of the last three is pycocoevalcap's, whose numbers the papers report.
"""

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType

from pam_kit.errors import MissingPackageError, PamKitError
from pam_kit.evaluation.metrics import meteor as meteor_program
from pam_kit.evaluation.metrics.chinese import character_tokens, jieba_tokens
from pam_kit.evaluation.metrics.java import without_line_ends
from pam_kit.evaluation.metrics.ptb import ptb_tokens
from pam_kit.evaluation.metrics.text_metric import ScoredText, TextMetric, TextScores, mean

Tokenizer = Callable[[Sequence[str]], list[str]]
Values = tuple[dict[str, float], list[dict[str, float]]]

TOKENIZERS: dict[str, tuple[Tokenizer, str]] = {
    "ptb": (ptb_tokens, "PTB tokens (Stanford CoreNLP 3.4.1), lower-cased, without punctuation"),
    "none": (
        lambda texts: [without_line_ends(text) for text in texts],
        "no tokenizer: words as written, split at spaces",
    ),
    "zh_characters": (character_tokens, "Chinese characters, other words whole, lower-cased, without punctuation"),
    "zh_jieba": (jieba_tokens, "Chinese words as jieba cuts them, lower-cased, without punctuation"),
}


class CaptionScore(TextMetric):
    """METEOR, CIDEr-D, ROUGE-L and BLEU-1 to 4 of captions, tokenised once for all of them.

    METEOR 1.5 knows no Chinese, but its normalisation splits it into characters: with ``zh_characters`` it is named
    ``METEOR_characters``, and only equal characters match.

    Args:
        tokenizer: one of ``TOKENIZERS``.
        metrics: which of METEOR, CIDEr, ROUGE_L and Bleu.
        kwargs: those of ``torchmetrics.Metric``.
    """

    def __init__(
        self,
        tokenizer: str = "ptb",
        metrics: Sequence[str] = ("METEOR", "CIDEr", "ROUGE_L", "Bleu"),
        **kwargs,
    ):
        super().__init__(**kwargs)
        if tokenizer not in TOKENIZERS:
            raise PamKitError(f"no tokenizer {tokenizer!r}; there are {', '.join(TOKENIZERS)}")
        if unknown := [name for name in metrics if name not in _SCORERS]:
            raise PamKitError(f"no metric {unknown[0]!r} of captions; there are {', '.join(_SCORERS)}")
        if tokenizer == "zh_jieba" and "METEOR" in metrics:
            raise PamKitError("METEOR splits Chinese into characters by itself; score it with zh_characters")
        self.tokenizer, self.metrics = tokenizer, tuple(metrics)

    @property
    def notes(self) -> tuple[str, ...]:
        """Tokens, and how each metric is made up."""
        return (TOKENIZERS[self.tokenizer][1], *(self._note(name) for name in self.metrics))

    def score_texts(self, texts: Sequence[ScoredText]) -> TextScores:
        """``METEOR`` with ``METEOR_segment_mean``, ``CIDEr``, ``ROUGE_L``, ``Bleu_1`` to ``Bleu_4``."""
        predictions, references = tokenised(self.tokenizer, texts)
        scores = TextScores({}, [{} for _ in texts])
        for name in self.metrics:
            corpus, items = _SCORERS[name](predictions, references)
            scores.corpus.update({self._named(key): value for key, value in corpus.items()})
            for item, values in zip(scores.items, items, strict=True):
                item.update({self._named(key): value for key, value in values.items()})
        return scores

    def _named(self, metric: str) -> str:
        return metric.replace("METEOR", "METEOR_characters") if self.tokenizer == "zh_characters" else metric

    def _note(self, metric: str) -> str:
        if metric == "METEOR" and self.tokenizer == "zh_characters":
            return "METEOR_characters: METEOR 1.5 has no Chinese; equal characters match, there are no synonyms"
        return _NOTES[metric]


def tokenised(tokenizer: str, texts: Sequence[ScoredText]) -> tuple[list[str], list[list[str]]]:
    """Predictions, and references of each, as tokens with spaces between them."""
    flat = [text for item in texts for text in (item.prediction, *item.references)]
    tokens = iter(TOKENIZERS[tokenizer][0](flat))
    rows = [[next(tokens) for _ in range(1 + len(item.references))] for item in texts]
    return [row[0] for row in rows], [row[1:] for row in rows]


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Values:
    """CIDEr-D in [0, 10] (Vedantam et al., arXiv 1411.5726): n up to 4, sigma 6; document frequencies of this corpus.

    0 for a corpus of one item, whose words are in all of it.
    """
    scorer = _scorer("cider.cider_scorer").CiderScorer(n=4, sigma=6.0)
    for prediction, several in zip(predictions, references, strict=True):
        scorer += (prediction, list(several))
    if not any(text.split() for several in references for text in several):
        # The package cannot count words where no reference has any; nothing can match.
        return {"CIDEr": 0.0}, [{"CIDEr": 0.0} for _ in predictions]
    corpus, items = scorer.compute_score()
    return {"CIDEr": float(corpus)}, [{"CIDEr": float(value)} for value in items]


def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Values:
    """ROUGE-L in [0, 1], beta 1.2, precision and recall each of the best reference; the mean over items."""
    scorer = _scorer("rouge.rouge").Rouge()
    pairs = zip(predictions, references, strict=True)
    values = [float(scorer.calc_score([prediction], list(several))) for prediction, several in pairs]
    return {"ROUGE_L": mean(values)}, [{"ROUGE_L": value} for value in values]


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Values:
    """BLEU-1 to 4 in [0, 1] with the closest reference length; of the corpus, on summed counts."""
    scorer = _scorer("bleu.bleu_scorer").BleuScorer(n=4)
    for prediction, several in zip(predictions, references, strict=True):
        scorer += (prediction, list(several))
    corpus, columns = scorer.compute_score(option="closest", verbose=0)
    names = [f"Bleu_{n}" for n in range(1, 5)]
    items = [dict(zip(names, map(float, row), strict=True)) for row in zip(*columns, strict=True)]
    return dict(zip(names, map(float, corpus), strict=True)), items


def meteor(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Values:
    """METEOR 1.5 in [0, 1]: the value of the corpus on summed statistics, and beside it the mean of the items."""
    scores = meteor_program.meteor(predictions, references)
    corpus = {"METEOR": scores.corpus, "METEOR_segment_mean": mean(scores.segments)}
    return corpus, [{"METEOR": value} for value in scores.segments]


_SCORERS: dict[str, Callable[[Sequence[str], Sequence[Sequence[str]]], Values]] = {
    "METEOR": meteor,
    "CIDEr": cider,
    "ROUGE_L": rouge_l,
    "Bleu": bleu,
}
_NOTES = {
    "METEOR": meteor_program.NOTE,
    "CIDEr": "CIDEr-D, 0 to 10; document frequencies of exactly these regions, so parts of them have other values",
    "ROUGE_L": "ROUGE-L, beta 1.2, mean over regions",
    "Bleu": "BLEU on summed counts, closest reference length",
}


def _scorer(module: str) -> ModuleType:
    try:
        return importlib.import_module(f"pycocoevalcap.{module}")
    except ModuleNotFoundError:
        raise MissingPackageError(
            "CIDEr, ROUGE-L and BLEU need the package pycocoevalcap: pip install 'pam-kit[eval]'"
        ) from None
