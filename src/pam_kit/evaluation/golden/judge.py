"""Golden readings of judges' replies: as the published scripts read them, and as this kit does. Torch-free."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pam_kit.evaluation.golden.lines import EXACT, Line, compare, guarded, unknown
from pam_kit.evaluation.judging.aggregates import reply_tables

_OWN = "tolerant_pam_kit"
_KINDS = ("videorefer_bench_d", "pairwise", "g_stdc")


def check_judge(replies: Mapping[str, Sequence[str]], golden: Mapping[str, Any]) -> Iterator[Line]:
    """The section ``judge``: every table of it."""
    yield from guarded("judge", "all", _tables, replies, golden)


def _tables(replies: Mapping[str, Sequence[str]], golden: Mapping[str, Any]) -> Iterator[Line]:
    own = reply_tables({kind: replies.get(kind, ()) for kind in _KINDS})
    parts = [(f"judge/{kind}", own[kind], golden[kind]) for kind in _KINDS if kind in golden]
    tolerant = golden.get(_OWN, {})
    parts += [(f"judge/{_OWN}/{kind}", own[_OWN][kind], tolerant[kind]) for kind in _KINDS if kind in tolerant]
    for place, ours, theirs in parts:
        for name in theirs:
            if name in ours:
                yield compare(place, name, _named(ours[name]), _named(theirs[name]), EXACT)
        yield from unknown(place, theirs, tuple(ours))
    yield from unknown("judge", golden, (*_KINDS, _OWN))
    yield from unknown(f"judge/{_OWN}", tolerant, _KINDS)


def _named(value: Any) -> Mapping[str, Any]:
    """One entry a reply or aggregate, so that each is counted."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list):
        return {f"reply {place}": one for place, one in enumerate(value)}
    return {"value": value}
