"""Questions to a judge, several at once, with what is in the transcript not asked again. Torch-free."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from pam_kit.errors import PamKitError
from pam_kit.evaluation.judging.endpoint import (
    Endpoint,
    JudgeFailed,
    JudgeSettings,
    JudgeStopped,
    Messages,
    Reply,
)
from pam_kit.evaluation.judging.transcript import Call, Transcript, messages_hash, request_hash

# metric -> score, None where a reply does not give it
Reading: TypeAlias = Mapping[str, float | None]

RE_ASKS = 2
# Questions under way for each request under way: one that has to wait does not hold up those behind it.
_AHEAD = 4
# Failures in a row that show an endpoint, not a question, to be at fault.
HOPELESS = 5


@dataclass(frozen=True)
class Question:
    """One thing to judge.

    Args:
        id: names it in results.
        messages: makes what the judge is told; a picture is read only then.
        read: the scores in a reply; all None for "".
    """

    id: str
    messages: Callable[[], Messages]
    read: Callable[[str], Reading]


@dataclass
class Verdict:
    """What became of a question: its calls in order, and the scores of the reply that gives most of them."""

    id: str
    scores: Reading
    calls: list[Call] = field(default_factory=list)

    @property
    def first_reply(self) -> Reply | None:
        """What a script that asks only once would have seen."""
        return self.calls[0].reply

    @property
    def complete(self) -> bool:
        return None not in self.scores.values()

    @property
    def failure(self) -> str:
        """Why there are no scores, or not all of them; "" where there are."""
        if self.complete:
            return ""
        last = self.calls[-1]
        if last.reply is None:
            return last.error
        if last.reply.finish_reason == "length":
            return f"all {len(self.calls)} replies were cut off at max_tokens"
        return f"no scores could be read in {len(self.calls)} replies"


class _Patience:
    """Ends a run whose endpoint does not answer any more. What was recorded by earlier runs does not count for it.

    Args:
        endpoint: is stopped then.
        questions: how many there are.
        answered: whether it ever replied: if not, a request that it refuses may be its own fault too.
    """

    def __init__(self, endpoint: Endpoint, questions: int, answered: bool):
        self.endpoint, self.questions, self.answered = endpoint, questions, answered
        self.in_a_row, self.reason = 0, ""
        self._counting = threading.Lock()

    def reply(self) -> None:
        """One came just now."""
        with self._counting:
            self.answered, self.in_a_row = True, 0

    def failure(self, failed: JudgeFailed) -> None:
        """No reply to what was asked just now."""
        with self._counting:
            if self.reason or (failed.refused and self.answered):
                return
            self.in_a_row += 1
            if self.in_a_row == (HOPELESS if self.answered else min(HOPELESS, self.questions)):
                calls = f"{self.in_a_row} calls in a row failed" if self.in_a_row > 1 else "the only call failed"
                self.reason = f"{failed.reason} ({calls})"
                self.endpoint.stop()


class Judge:
    """A model that judges, and the transcript of what it said.

    Args:
        settings: which model, where and how.
        transcript: the file of its calls; a run that was stopped goes on from it.
        offline: ask nothing, read the transcript only.
        wait: see ``Endpoint``.
    """

    def __init__(
        self,
        settings: JudgeSettings,
        transcript: str | Path,
        offline: bool = False,
        wait: Callable[[float], object] | None = None,
    ):
        self.settings, self.offline = settings, offline
        self.transcript = Transcript(transcript)
        self._wait = wait
        self._fresh: dict[tuple[str, int], Call] = {}
        self._guard, self._locks = threading.Lock(), dict[str, threading.Lock]()
        if offline and not self.transcript.path.is_file():
            raise PamKitError(f"no transcript {self.transcript.path}; without one, offline judging has nothing to read")

    def ask(self, questions: Sequence[Question]) -> Iterator[Verdict]:
        """A verdict for each question, in their order. Each call is in the transcript as soon as it ends.

        A reply that cannot be read, or was cut off, is asked for again at most twice. Where the endpoint gives none,
        the reason is recorded, and the next run asks again.

        Raises:
            PamKitError: offline, for a question that was never asked; else where ``HOPELESS`` calls in a row get no
                reply, or none of fewer questions does. Calls that the endpoint refuses for what they ask (HTTP 400,
                413, 422) are not counted once it has replied to others.
        """
        endpoint = Endpoint(self.settings, self._wait)
        patience = _Patience(endpoint, len(questions), self.transcript.has_reply_of(self.settings.model))
        pool = ThreadPoolExecutor(self.settings.concurrency, thread_name_prefix="judge")
        under_way: deque[Future[Verdict]] = deque()
        waiting = iter(questions)
        try:
            while True:
                while len(under_way) < _AHEAD * self.settings.concurrency and (one := next(waiting, None)):
                    under_way.append(pool.submit(self._judge, endpoint, patience, one))
                if not under_way:
                    return
                verdict = under_way.popleft().result()
                if patience.reason:
                    raise self._hopeless(patience.reason)
                yield verdict
        finally:
            endpoint.stop()
            pool.shutdown(cancel_futures=True)

    def _judge(self, endpoint: Endpoint, patience: _Patience, question: Question) -> Verdict:
        messages = question.messages()
        request = request_hash(self.settings.model, self.settings.parameters, messages)
        verdict = Verdict(question.id, question.read(""))
        with self._lock(request):  # questions that are word for word the same share their replies
            for again in range(RE_ASKS + 1):
                call = self._known(request, again)
                if call is None and self.offline:
                    if again:
                        break  # the run that is read was stopped between two replies
                    raise self._never_asked(question)
                if call is None:
                    call = self._call(endpoint, patience, messages, request, again)
                verdict.calls.append(call)
                if call.reply is None:
                    break
                scores = question.read("" if call.reply.finish_reason == "length" else call.reply.text)
                if _read_in(scores) > _read_in(verdict.scores):
                    verdict.scores = scores
                if verdict.complete:
                    break
        return verdict

    def _known(self, request: str, again: int) -> Call | None:
        """What needs no call; what the last run got no reply to does."""
        if call := self._fresh.get((request, again)):
            return call
        call = self.transcript.find(request, again)
        return call if call is None or call.reply or self.offline else None

    def _lock(self, request: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(request, threading.Lock())

    def _call(self, endpoint: Endpoint, patience: _Patience, messages: Messages, request: str, again: int) -> Call:
        """Ask, and record what became of it: whatever happens to the other questions, it is paid for."""
        call = Call(request, again, messages_hash(messages), self.settings.model, None)
        try:
            call = replace(call, reply=endpoint.ask(messages, again))
            patience.reply()
        except JudgeStopped as stopped:
            return replace(call, error=stopped.reason)
        except JudgeFailed as failed:
            call = replace(call, error=failed.reason)
            patience.failure(failed)
        self._fresh[request, again] = call
        self.transcript.add(call)
        return call

    def _hopeless(self, reason: str) -> PamKitError:
        return PamKitError(
            f"the judge {self.settings.model} does not answer: {reason}. {self.transcript.path} keeps all that it "
            "replied; the same call goes on from there once it answers"
        )

    def _never_asked(self, question: Question) -> PamKitError:
        return PamKitError(
            f"{self.transcript.path} has no reply of {self.settings.model} about {question.id!r} with these settings "
            "and words; judge without offline to ask for it"
        )


def _read_in(scores: Reading) -> int:
    return sum(score is not None for score in scores.values())
