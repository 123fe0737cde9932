"""Comparisons, and the line that each golden file gets."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Both sides compute in fp32, in a different order of sums: outputs of unit size differ by a few 1e-6.
TOLERANCE = 1e-5
_LONGEST_VALUE = 60


@dataclass(frozen=True)
class Comparison:
    """Something of the kit beside the same thing of a golden file.

    Args:
        what: its name, mostly that of a tensor.
        of: which prompt, case or parameter it belongs to, where a file holds several.
        difference: the largest absolute difference; infinite where the two cannot be subtracted.
        tolerance: what it may be; 0 is exact.
        reason: what is wrong, where the difference does not say it.
    """

    what: str
    difference: float
    tolerance: float
    of: str = ""
    reason: str = ""

    @property
    def ok(self) -> bool:
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        name = f"{self.what} of {self.of}" if self.of else self.what
        return f"{name} differs by {self.difference:.1e}" + (f" ({self.reason})" if self.reason else "")


def close(what: str, own: Tensor, golden: Tensor, tolerance: float = TOLERANCE, of: str = "") -> Comparison:
    """Compare two tensors of floating point numbers."""
    if own.shape != golden.shape:
        reason = f"shape {tuple(own.shape)}, golden {tuple(golden.shape)}"
        return Comparison(what, math.inf, tolerance, of, reason)
    if not own.numel():
        return Comparison(what, 0.0, tolerance, of)
    difference = float((own.detach().double() - golden.double()).abs().max())
    if math.isnan(difference):
        # A NaN on either side is a difference, even beside another one.
        return Comparison(what, math.inf, tolerance, of, "not a number")
    return Comparison(what, difference, tolerance, of)


def exact(what: str, own: Any, golden: Any, of: str = "") -> Comparison:
    """Compare integers, words, lists or tensors of integers, which have to be the same."""
    if isinstance(golden, Tensor):
        return close(what, torch.as_tensor(own), golden, 0.0, of)
    if own == golden:
        return Comparison(what, 0.0, 0.0, of)
    return Comparison(what, math.inf, 0.0, of, f"{_short(own)}, golden {_short(golden)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


@dataclass(frozen=True)
class FileReport:
    """What became of one golden file; ``failure`` says why it could not be compared as a whole."""

    name: str
    kind: str
    comparisons: Sequence[Comparison] = ()
    failure: str = ""

    @property
    def ok(self) -> bool:
        return not self.failure and bool(self.comparisons) and all(c.ok for c in self.comparisons)

    def differences(self) -> dict[float, float]:
        """Tolerance -> the largest difference among the comparisons it holds for; exact ones only where all are."""
        found: dict[float, float] = {}
        for one in self.comparisons:
            found[one.tolerance] = max(found.get(one.tolerance, 0.0), one.difference)
        inexact = {tolerance: worst for tolerance, worst in sorted(found.items()) if tolerance or worst}
        return inexact or found

    def line(self) -> str:
        """One line for people."""
        verdict = f"{'ok  ' if self.ok else 'FAIL'}  {self.name}"
        wrong = [self.failure] if self.failure else []
        wrong += [str(c) for c in self.comparisons if not c.ok]
        parts = [f"wrong: {'; '.join(wrong)}"] if wrong else []
        if self.comparisons:
            counts = Counter(c.what for c in self.comparisons)
            names = [name if count == 1 else f"{name} ({count})" for name, count in counts.items()]
            numbers = [f"{worst:.1e} (tolerance {tolerance:.0e})" for tolerance, worst in self.differences().items()]
            parts = [f"max difference {', '.join(numbers)}", *parts, f"compared {', '.join(names)}"]
        return f"{verdict}: {'; '.join(parts or ['nothing was compared'])}"

    def json_line(self) -> str:
        """The same and every single comparison, as one line of JSON; an infinite difference is null."""
        numbers = self.differences().items()
        compared = [
            {
                "what": one.what,
                "of": one.of,
                "difference": _finite(one.difference),
                "tolerance": one.tolerance,
                "ok": one.ok,
                "reason": one.reason,
            }
            for one in self.comparisons
        ]
        return json.dumps(
            {
                "file": self.name,
                "kind": self.kind,
                "ok": self.ok,
                "failure": self.failure,
                "differences": [{"max": _finite(worst), "tolerance": tolerance} for tolerance, worst in numbers],
                "compared": compared,
            }
        )


def _finite(difference: float) -> float | None:
    return difference if math.isfinite(difference) else None
