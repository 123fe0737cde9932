"""A judge on this computer: a real HTTP server that replies as a test tells it to, or one that compares words."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pam_kit.evaluation.judging.endpoint import JudgeSettings

MODEL = "judge-of-tests"


class ScriptedJudge:
    """``script`` gets the request and returns the reply's text, a whole answer, or (status, bytes[, headers])."""

    def __init__(self):
        self.script: Callable[[dict[str, Any]], Any] = lambda request: ""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""
        self.lock = threading.Lock()

    def settings(self, **changes: Any) -> JudgeSettings:
        return JudgeSettings(**{"base_url": self.url, "model": MODEL, "timeout": 10.0} | changes)

    def say(self, *answers: Any) -> None:
        """One after the other; the last one again and again."""
        left = list(answers)
        self.script = lambda request: left.pop(0) if len(left) > 1 else left[0]


def completion(text: Any, finish_reason: str = "stop") -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return {"model": f"{MODEL}-0601", "choices": [choice], "usage": {"total_tokens": 7}}


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        judge: ScriptedJudge = self.server.judge
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with judge.lock:
            judge.requests.append(request)
            judge.headers.append(dict(self.headers) | {"path": self.path})
            answer = judge.script(request) if not getattr(judge.script, "slow", False) else None
        answer = judge.script(request) if answer is None else answer
        if isinstance(answer, str):
            answer = completion(answer)
        status, body, *headers = answer if isinstance(answer, tuple) else (200, json.dumps(answer).encode())
        self.send_response(status)
        for name, value in dict(*headers).items():
            self.send_header(name, value)
        if 300 <= status < 400:
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A client that did not wait for the answer is what some tests are about."""


@contextmanager
def serving() -> Iterator[ScriptedJudge]:
    """A judge behind an address, until the block ends."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.judge = judge = ScriptedJudge()
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def scripted(monkeypatch) -> Iterator[ScriptedJudge]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("PAM_KIT_JUDGE_KEY", raising=False)
    with serving() as judge:
        yield judge


# What is expected and what was said, in the words of each protocol.
_PAIR = re.compile(r"\[Assistant 1\]\n(.*)\n\[End of Assistant 1\]\n\n\[Assistant 2\]\n(.*)\n\[End of", re.DOTALL)
_FACTS = re.compile(r"##Correct answer: (.*)\n##Predicted answer: (.*)\n", re.DOTALL)
_SEGMENTS = re.compile(r"True segments:\n(.*)\n\nPredicted segments:\n(.*)", re.DOTALL)
_DIMENSIONS = ("Subject Correspondence", "Appearance Description", "Temporal Description", "Hallucination Detection")


def compare(request: dict[str, Any]) -> str:
    """A judge that gives the highest mark where the words are those that are expected, or else the lowest.

    Of segments it gives the share of the highest mark that are as expected.
    """
    content = request["messages"][-1]["content"]
    text = content if isinstance(content, str) else content[0]["text"]
    if found := _PAIR.search(text):
        return f"10 {10 if _words(found[1]) == _words(found[2]) else 1}\nThe words are compared."
    if found := _FACTS.search(text):
        mark = 5 * (_words(found[1]) == _words(found[2]))
        return "\n".join(f"{i}. {name}: {mark}\nExplanation: words." for i, name in enumerate(_DIMENSIONS, 1))
    found = _SEGMENTS.search(text)
    assert found, text
    true, said = ([_words(line) for line in part.splitlines()] for part in found.groups())
    mark = 5 * sum(map(set.__eq__, true, said)) / len(true)
    return f"Continuity Score: {mark:g}\nExplanation: words."


def _words(text: str) -> set[str]:
    """Without the numbers of regions and segments, which may stand on one side alone."""
    return set(re.findall(r"\w+", re.sub(r"<(Region|Mark) \d+>:|Segment \d+:", " ", text).lower()))


@pytest.fixture
def comparing() -> Callable[[dict[str, Any]], str]:
    """``scripted.script = comparing``: a judge that compares words."""
    return compare
