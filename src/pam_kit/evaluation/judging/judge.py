"""A benchmark scored by a judge: from records to numbers, with all that has to be said beside them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from pam_kit.errors import PamKitError
from pam_kit.evaluation.judging.asking import Judge, Question, Reading, Verdict
from pam_kit.evaluation.judging.pairwise import PairwiseFerret, PairwiseMdvp
from pam_kit.evaluation.judging.video_texts import GStdc, VideoReferBenchD
from pam_kit.evaluation.protocol_scores import ProtocolScores
from pam_kit.evaluation.records import RegionRecord
from pam_kit.registry import suggest

PROTOCOLS = (PairwiseFerret.name, PairwiseMdvp.name, VideoReferBenchD.name, GStdc.name)
_PAIRWISE = (PairwiseFerret.name, PairwiseMdvp.name)
# Failures that the notes spell out; all of them are None in the items.
_SHOWN = 5


class JudgedProtocol(Protocol):
    """What is asked of a judge, and what its scores add up to."""

    name: str
    asks: str

    def questions(self, records: Iterable[RegionRecord]) -> list[Question]: ...

    def scores(self, verdicts: Sequence[Verdict]) -> tuple[dict[str, float | None], dict[str, Reading]]: ...


def judge(
    records: Iterable[RegionRecord],
    protocol: str,
    by: Judge,
    root: str | Path | None = None,
    swap_average: bool = False,
    progress: Callable[..., Iterable[Verdict]] = lambda verdicts, **_: verdicts,
) -> ProtocolScores:
    """What ``by`` thinks of the predictions in ``records``.

    ``corpus`` has each metric twice: as it is, over what could be read, and with ``_reference_compat`` behind its name
    as the published script would have it from first replies, failures included. A metric for which nothing could be
    read is not in it, and an item's score that could not be read is None: neither is 0.

    Args:
        records: of one benchmark, with the ``meta`` that ``pam_kit.evaluation.judging.items`` lists.
        protocol: one of ``PROTOCOLS``.
        by: the judge, with its transcript.
        root: the folder of the records' pictures; only ``pairwise_mdvp`` shows any.
        swap_average: of the pairwise protocols: ask in both orders of the answers, and average.
        progress: ``progress(verdicts, total=..., desc=...)`` wraps the loop, for example tqdm.

    Raises:
        PamKitError: an unknown protocol, records that lack what it needs, a judge that answers nothing, or, offline,
            a question that was never asked.
    """
    chosen = _protocol(protocol, root, swap_average)
    records = list(records)
    questions = chosen.questions(records)
    if not questions:
        raise PamKitError(f"{protocol}: there are no records to judge")
    if twice := [name for name, count in Counter(question.id for question in questions).items() if count > 1]:
        raise PamKitError(f"{protocol}: two records have the id {twice[0]!r}; judge one benchmark at a time")
    verdicts = list(progress(by.ask(questions), total=len(questions), desc=protocol))
    if not any(call.reply for verdict in verdicts for call in verdict.calls):
        raise PamKitError(f"the judge {by.settings.model} gave no reply at all: {verdicts[0].failure}")
    corpus, items = chosen.scores(verdicts)
    return ProtocolScores(
        protocol,
        {name: score for name, score in corpus.items() if score is not None},
        {name: dict(scores) for name, scores in items.items()},
        tuple(_notes(chosen, records, verdicts, corpus, items, by)),
    )


def _protocol(name: str, root: str | Path | None, swap_average: bool) -> JudgedProtocol:
    if name not in PROTOCOLS:
        raise PamKitError(f"no judged protocol {name!r}{suggest(name, PROTOCOLS, 'they are')}")
    if swap_average and name not in _PAIRWISE:
        raise PamKitError(f"{name} compares no two answers, so swap_average does not apply to it")
    if name == PairwiseMdvp.name:
        if root is None:
            raise PamKitError(f"{name} shows pictures to the judge; say in which root folder they lie")
        return PairwiseMdvp(Path(root), swap_average)
    if name == PairwiseFerret.name:
        return PairwiseFerret(swap_average)
    return VideoReferBenchD() if name == VideoReferBenchD.name else GStdc()


def _notes(
    chosen: JudgedProtocol,
    records: Sequence[RegionRecord],
    verdicts: Sequence[Verdict],
    corpus: dict[str, float | None],
    items: dict[str, Reading],
    by: Judge,
) -> Iterator[str]:
    yield from by.transcript.notes
    yield chosen.asks
    yield _whom(verdicts, by)
    if modes := sorted({str(record.meta["mode"]) for record in records if "mode" in record.meta}):
        yield f"mode {', '.join(modes)}"
    parsed = sum(None not in scores.values() for scores in items.values())
    yield f"n {len(items)}, n_parsed {parsed}, coverage {100 * parsed / len(items):.1f} %"
    yield from _incomplete(items)
    if getattr(chosen, "swap_average", False):
        yield "swap_average: grades are means over both orders of the answers; _reference_compat takes the first order"
    yield (
        "plain metrics leave out what could not be read; _reference_compat reads first replies as the published "
        "script does, and counts failures as it does"
    )
    if missing := [name for name, score in corpus.items() if score is None]:
        yield f"not known: {', '.join(missing)}"
    if blank := sum(not record.answer.strip() for record in records):
        yield f"{blank} of {len(records)} predictions are missing or empty; they were judged as empty answers"
    if failures := [(verdict.id, verdict.failure) for verdict in verdicts if verdict.failure]:
        shown = "; ".join(f"{name}: {reason}" for name, reason in failures[:_SHOWN])
        yield f"{len(failures)} of {len(verdicts)} questions failed: {shown}{'; ...' if failures[_SHOWN:] else ''}"


def _whom(verdicts: Sequence[Verdict], by: Judge) -> str:
    calls = [call for verdict in verdicts for call in verdict.calls]
    replies = [call.reply for call in calls if call.reply]
    answered = ", ".join(sorted({reply.model or "unnamed" for reply in replies}))
    settings = ", ".join(f"{name} {value}" for name, value in by.settings.parameters.items()) or "its own settings"
    tokens = sum(_tokens(reply.usage) for reply in replies)
    used = f", {tokens} tokens" if tokens else ""
    return (
        f"judge {by.settings.model} (answered as {answered}), {settings}; {len(calls)} calls{used}; "
        "numbers of another judge, or of other words to it, are not comparable"
    )


def _tokens(usage: dict[str, Any]) -> int:
    total = usage.get("total_tokens")
    return total if isinstance(total, int) else 0


def _incomplete(items: dict[str, Reading]) -> Iterator[str]:
    """The count of each score, where they differ."""
    names = next(iter(items.values())).keys()
    counts = {name: sum(scores[name] is not None for scores in items.values()) for name in names}
    if len(set(counts.values())) > 1:
        yield "parsed: " + ", ".join(f"{name} {count}" for name, count in counts.items())
