"""Whether two ways of doing a piece of work came to the same. Torch-free."""

import json
from dataclasses import dataclass

import numpy as np

# Of a mask's logits, expected IoU and object score.
TOLERANCE = 1e-4
# Most ties in float32, in which they are rare: a share of the answers, but one may always be.
MOST_TIES = 0.05


@dataclass(frozen=True)
class Comparison:
    """How far two outcomes differ.

    Args:
        texts: answers that read differently, but for those of ``ties``.
        ties: answers that read differently from where the plain path's two likeliest words were so near each other that
            rounding decides, and in which the second of them stands there. How they go on is not known.
        pixels: pixels of masks that differ although the plain path's logit is further from 0 than ``TOLERANCE``.
        logits: the largest difference of a mask's logits, at the size that the model makes them in.
        largest: the largest difference of a score.
        distinct: answers among all that read differently from each other: with few of them, equal texts say little.
        most_ties: so many ties may be; None: any number, since the decoder computes in a low precision.
    """

    texts: int
    pixels: int
    logits: float
    largest: float
    distinct: int
    ties: int = 0
    most_ties: int | None = None

    @property
    def same(self) -> bool:
        few = self.most_ties is None or self.ties <= self.most_ties
        near = self.logits <= TOLERANCE and self.largest <= TOLERANCE  # neither, where one is no number
        return few and near and self.texts == 0 and self.pixels == 0


def compare(kit: str, plain: str) -> Comparison:
    """Two files that ``outcome.save`` wrote."""
    with np.load(kit, allow_pickle=False) as one, np.load(plain, allow_pickle=False) as other:
        if any(one[name].shape != other[name].shape for name in ("masks", "logits", "texts")):
            # One of them has found less: nothing fits.
            return Comparison(max(one["texts"].size, other["texts"].size), other["masks"].size, np.inf, np.inf, 0)
        differing = (one["masks"] != other["masks"]) & ~other["unsure"]
        texts = list(zip(one["texts"].tolist(), other["texts"].tolist(), other["forks"].tolist(), strict=True))
        ties = sum(mine != plain and _is_tie(mine, forks) for mine, plain, forks in texts)
        return Comparison(
            texts=sum(mine != plain for mine, plain, _ in texts) - ties,
            pixels=int(differing.sum()),
            logits=float(np.abs(one["logits"] - other["logits"]).max(initial=0.0)),
            largest=float(np.abs(one["scores"] - other["scores"]).max(initial=0.0)),
            distinct=len(set(other["texts"].tolist())),
            ties=ties,
            most_ties=max(1, int(MOST_TIES * len(texts))) if other["exact"] else None,
        )


def _is_tie(said: str, forks: str) -> bool:
    """Whether it is what a fork tells, JSON as of ``outcome.save``."""
    return any(said == one["said"] if one["whole"] else said.startswith(one["said"]) for one in json.loads(forks))
