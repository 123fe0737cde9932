"""Every call to a judge, a line of JSON each: what is recorded is never asked again. Torch-free.

A line has ``request`` (sha256 of model, parameters and messages), ``again`` (how often the same was asked before),
``messages`` (sha256 of them alone), ``asked`` (the model asked for) and either ``text``, ``model`` (the one that
answered), ``finish_reason`` and ``usage``, or ``error``. Keys, addresses, messages and pictures are not in it.
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pam_kit.errors import PamKitError
from pam_kit.evaluation.judging.endpoint import Messages, Reply


@dataclass(frozen=True)
class Call:
    """One request and what became of it: a reply, or the reason why there is none."""

    request: str
    again: int
    messages: str
    asked: str
    reply: Reply | None
    error: str = ""

    def to_json(self) -> str:
        """One line."""
        facts: dict[str, Any] = {
            "request": self.request,
            "again": self.again,
            "messages": self.messages,
            "asked": self.asked,
        }
        if self.reply is None:
            facts["error"] = self.error
        else:
            facts |= {
                "model": self.reply.model,
                "finish_reason": self.reply.finish_reason,
                "usage": self.reply.usage,
                "text": self.reply.text,
            }
        return json.dumps(facts, ensure_ascii=False)


class Transcript:
    """The calls in a file, by request; lines are only ever added, and a later one of a request counts.

    They stand in the order in which they were recorded, which several threads may do at once. A last line that a killed
    process left half-written is dropped; ``notes`` say so.

    Args:
        path: of the file; it and its folder are made with the first line.

    Raises:
        PamKitError: a line is no call.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.notes: list[str] = []
        self._calls: dict[tuple[str, int], Call] = {}
        self._cut: tuple[int, int] | None = None  # bytes of whole lines, and of the file
        self._writing = threading.Lock()
        if self.path.is_file():
            self._read(self.path.read_bytes())

    def __len__(self) -> int:
        return len(self._calls)

    def find(self, request: str, again: int) -> Call | None:
        """The recorded call."""
        return self._calls.get((request, again))

    def has_reply_of(self, model: str) -> bool:
        """Whether a call to that model, under whatever settings, was answered."""
        return any(call.reply for call in self._calls.values() if call.asked == model)

    def add(self, call: Call) -> None:
        """Record a call: when this returns, killing the process does not lose it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._writing, open(self.path, "ab") as file:
            if self._cut and file.tell() == self._cut[1]:
                file.truncate(self._cut[0])
            self._cut = None
            # A judge may write half of a character pair, which UTF-8 proper has no bytes for.
            file.write(call.to_json().encode("utf-8", "surrogatepass") + b"\n")
            self._calls[call.request, call.again] = call

    def _read(self, content: bytes) -> None:
        lines = content.split(b"\n")
        rest = lines.pop()
        for number, line in enumerate(lines, 1):
            self._keep(line, number)
        if rest:
            self._cut = len(content) - len(rest), len(content)
            self.notes.append(
                f"{self.path.name}: the last line was cut off while it was written; it is dropped and asked again"
            )

    def _keep(self, line: bytes, number: int) -> None:
        if not line.strip():
            return
        try:
            facts = json.loads(line)
            error = facts.get("error")
            reply = Reply(facts["text"], facts["model"], facts["finish_reason"], facts["usage"]) if not error else None
            if reply and not (isinstance(reply.text, str) and isinstance(reply.usage, dict)):
                raise TypeError("text or usage is of another kind")
            call = Call(facts["request"], facts["again"], facts["messages"], facts["asked"], reply, error or "")
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            raise PamKitError(
                f"{self.path}:{number}: not a recorded call to a judge ({type(problem).__name__}: {problem}); "
                "remove the line to have it asked again, or name another file"
            ) from None
        self._calls[call.request, call.again] = call


def request_hash(model: str, parameters: Mapping[str, Any], messages: Messages) -> str:
    """What a reply is kept under: sha256 of model, parameters and messages."""
    return _sha256([model, dict(parameters), list(messages)])


def messages_hash(messages: Messages) -> str:
    """sha256 of the messages alone: the same whoever is asked."""
    return _sha256(list(messages))


def _sha256(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
