"""Means over seeds and whether two of them differ: Student's t-test, paired by seed or after Welch. Torch-free."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

TESTS = ("paired", "welch")
# Two-sided.
LEVEL = 0.05
_TOO_FEW, _NO_SPREAD = "too few runs for a test", "no spread over seeds, so no test"


@dataclass(frozen=True)
class Comparison:
    """A mean less that of a reference.

    Args:
        p: two-sided probability of so large a difference by chance; None where there is no test.
        untested: why there is none.
    """

    difference: float
    p: float | None
    untested: str = _TOO_FEW

    @property
    def significant(self) -> bool:
        return self.p is not None and self.p < LEVEL

    @property
    def answer(self) -> str:
        """Whether the mean is the larger one: yes, no, or that chance alone may have made the difference."""
        if self.p is None:
            return self.untested
        return "not significant" if not self.significant else "yes" if self.difference > 0 else "no"

    @property
    def statement(self) -> str:
        """In words, without the difference itself."""
        if self.p is None:
            return self.untested
        return self.chance if self.significant else f"not significant, {self.chance}"

    @property
    def chance(self) -> str:
        """The probability in words; empty where there is no test."""
        if self.p is None:
            return ""
        return "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}" if self.p < 0.1 else f"p = {self.p:.2f}"


def mean(values: Sequence[float]) -> float:
    """NaN of no values."""
    return math.fsum(values) / len(values) if values else math.nan


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of the population that the values are a sample of (n - 1); NaN of fewer than two."""
    if len(values) < 2:
        return math.nan
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def paired(values: Sequence[float], reference: Sequence[float]) -> Comparison:
    """``values[i]`` and ``reference[i]`` belong together: they are of one seed."""
    differences = [one - other for one, other in zip(values, reference, strict=True)]
    if len(differences) < 2:
        return Comparison(mean(differences), None)
    error = deviation(differences) / math.sqrt(len(differences))
    return _compared(mean(differences), error, len(differences) - 1)


def welch(values: Sequence[float], reference: Sequence[float]) -> Comparison:
    """Two samples of any sizes and spreads, with the degrees of freedom of Welch and Satterthwaite."""
    difference = mean(values) - mean(reference)
    if min(len(values), len(reference)) < 2:
        return Comparison(difference, None)
    parts = [deviation(sample) ** 2 / len(sample) for sample in (values, reference)]
    variance = sum(parts)
    spread = sum(part**2 / (len(sample) - 1) for part, sample in zip(parts, (values, reference), strict=True))
    return _compared(difference, math.sqrt(variance), variance**2 / spread if spread else 1.0)


def _compared(difference: float, error: float, degrees: float) -> Comparison:
    if error == 0:
        # Equal differences in a few runs are a matter of coarse scores, not of certainty.
        return Comparison(difference, 1.0) if difference == 0 else Comparison(difference, None, _NO_SPREAD)
    return Comparison(difference, two_sided_p(difference / error, degrees))


def two_sided_p(t: float, degrees: float) -> float:
    """Probability that a t-distributed value is at least as far from 0 as ``t``."""
    return _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        # The fraction converges fast on the other side.
        return 1 - _incomplete_beta(b, a, 1 - x)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(scale) / (a * _fraction(a, b, x))


def _fraction(a: float, b: float, x: float, terms: int = 300) -> float:
    """1 + d1 / (1 + d2 / (1 + ...)), from its last term up."""
    value = 1.0
    for number in range(terms, 0, -1):
        half = number // 2
        if number % 2:
            term = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            term = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        value = 1 + term / value
    return value
