"""A comparison with golden numbers, and the line that it gets. Torch-free."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pam_kit.errors import PamKitError

# Exact leaves room for the order of a sum, and for nothing else; sentence embeddings are computed in fp32.
TEXT_TOLERANCE, SIMILARITY_TOLERANCE, EXACT = 1e-6, 1e-4, 1e-12
# Facts beside the numbers of a section.
_FACTS = ("note",)


@dataclass(frozen=True)
class Line:
    """What became of one metric of one protocol.

    Args:
        protocol: the place in the golden file, such as ``captions/ptb``.
        metric: its name there.
        compared: how many values, those of items and of the corpus.
        difference: the largest absolute one; infinite where values cannot be subtracted.
        tolerance: what it may be.
        reason: what differs first, or why nothing could be compared.
        skipped: nothing was compared.
    """

    protocol: str
    metric: str
    compared: int = 0
    difference: float = 0.0
    tolerance: float = EXACT
    reason: str = ""
    skipped: bool = False

    @property
    def ok(self) -> bool:
        return not self.skipped and self.compared > 0 and self.difference <= self.tolerance

    def __str__(self) -> str:
        name = f"{self.protocol} {self.metric}"
        if self.skipped:
            return f"skipped  {name}: {self.reason}"
        allowed = f"tolerance {self.tolerance:.0e}" if self.tolerance > EXACT else "exact"
        numbers = f"{self.compared} compared, max difference {self.difference:.1e} ({allowed})"
        reason = f"; {self.reason}" if self.reason and not self.ok else ""
        return f"{'ok      ' if self.ok else 'FAIL    '} {name}: {numbers}{reason}"


def compare(protocol: str, metric: str, own: Mapping[str, Any], golden: Mapping[str, Any], tolerance: float) -> Line:
    """Name -> number, text, list or None of ours, beside the same of a golden file; all names have to be there."""
    if not golden:
        return Line(protocol, metric, skipped=True, reason="the golden file holds no value")
    worst, reason = 0.0, ""
    for name in [*golden, *(name for name in own if name not in golden)]:
        missing = "missing in the golden file" if name in own else "missing here"
        if name not in own or name not in golden:
            found, why = math.inf, f"{name} is {missing}"
        else:
            found = difference(own[name], golden[name])
            why = f"{name} is {_short(own[name])}, golden {_short(golden[name])}"
        if found > worst:
            worst = found
            reason = why
    return Line(protocol, metric, len(golden), worst, tolerance, reason)


def difference(own: Any, golden: Any) -> float:
    """Largest absolute difference of two numbers or lists of numbers; of anything else 0 where equal, else infinite."""
    if _is_number(own) and _is_number(golden):
        apart = abs(own - golden)
        return math.inf if math.isnan(apart) else float(apart)
    if isinstance(own, list | tuple) and isinstance(golden, list | tuple) and len(own) == len(golden):
        return max((difference(*pair) for pair in zip(own, golden, strict=True)), default=0.0)
    if isinstance(own, Mapping) and isinstance(golden, Mapping) and own.keys() == golden.keys():
        return max((difference(own[key], golden[key]) for key in golden), default=0.0)
    return 0.0 if own == golden else math.inf


def compare_scores(
    protocol: str,
    golden: Mapping[str, Any],
    corpus: Mapping[str, float],
    items: Mapping[str, Mapping[str, Any]],
    tolerances: Mapping[str, float],
) -> Iterator[Line]:
    """One line for every metric that a golden ``{corpus, items}`` names; one that we have not is skipped."""
    golden_corpus, golden_items = golden.get("corpus", {}), golden.get("items")
    names = list(dict.fromkeys([*golden_corpus, *(name for item in (golden_items or {}).values() for name in item)]))
    for name in names:
        if name not in tolerances:
            yield Line(protocol, name, skipped=True, reason="no such metric here")
            continue
        expected = {id: item[name] for id, item in (golden_items or {}).items() if name in item}
        own = {id: item[name] for id, item in items.items() if name in item} if expected else {}
        if name in golden_corpus:
            expected["the corpus"] = golden_corpus[name]
            own |= {"the corpus": corpus[name]} if name in corpus else {}
        yield compare(protocol, name, own, expected, tolerances[name])
    yield from unknown(protocol, golden, ("corpus", "items", "n"))


def unknown(place: str, golden: Mapping[str, Any], known: Sequence[str]) -> Iterator[Line]:
    """A skipped line for every part that nothing here compares; notes are no part."""
    for name in golden:
        if name not in known and name not in _FACTS:
            yield Line(place, name, skipped=True, reason="nothing here knows what this is")


def guarded(protocol: str, metric: str, lines: Callable[..., Iterator[Line]], *given: Any) -> Iterator[Line]:
    """``lines(*given)``; where a program or package is missing, one that says so."""
    try:
        yield from lines(*given)
    except PamKitError as error:
        yield Line(protocol, metric, skipped=True, reason=" ".join(str(error).split()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # Of a file in another format; a wrong number raises nothing.
        reason = f"the files do not have the expected layout: {type(error).__name__}: {error}"
        yield Line(protocol, metric, skipped=True, reason=reason)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
