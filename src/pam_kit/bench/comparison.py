"""Whether two ways of doing a piece of work came to the same. Torch-free."""

from dataclasses import dataclass

import numpy as np

# Of a mask's logits, expected IoU and object score.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Comparison:
    """How far two outcomes differ.

    Args:
        texts: answers that read differently, but for those of ``ties``.
        ties: answers that read differently only from where the plain path's two likeliest words were so near each other
            that rounding decides.
        pixels: pixels of masks that differ although the plain path's logit is further from 0 than ``TOLERANCE``.
        largest: the largest difference of a score.
        distinct: answers among all that read differently from each other: with few of them, equal texts say little.
    """

    texts: int
    pixels: int
    largest: float
    distinct: int
    ties: int = 0

    @property
    def same(self) -> bool:
        return self.texts == 0 and self.pixels == 0 and self.largest <= TOLERANCE


def compare(kit: str, plain: str) -> Comparison:
    """Two files that ``outcome.save`` wrote."""
    with np.load(kit, allow_pickle=False) as one, np.load(plain, allow_pickle=False) as other:
        if any(one[name].shape != other[name].shape for name in ("masks", "texts")):
            # One of them has found less: nothing fits.
            return Comparison(max(one["texts"].size, other["texts"].size), other["masks"].size, np.inf, 0)
        differing = (one["masks"] != other["masks"]) & ~other["unsure"]
        texts = list(zip(one["texts"].tolist(), other["texts"].tolist(), other["sure"].tolist(), strict=True))
        ties = sum(mine != plain and plain != sure and mine.startswith(sure) for mine, plain, sure in texts)
        return Comparison(
            texts=sum(mine != plain for mine, plain, _ in texts) - ties,
            pixels=int(differing.sum()),
            largest=float(np.abs(one["scores"] - other["scores"]).max(initial=0.0)),
            distinct=len(set(other["texts"].tolist())),
            ties=ties,
        )
