"""Requests to a real server that answers, stumbles or refuses."""

import json
import socket
import time
from email.utils import formatdate

import pytest

from pam_kit.errors import PamKitError
from pam_kit.evaluation.judging.endpoint import Endpoint, JudgeFailed, JudgeSettings

MESSAGES = [{"role": "user", "content": "Is 水 wet?"}]
OK = {"model": "m", "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}], "usage": {"total_tokens": 3}}


def endpoint(scripted, **changes) -> tuple[Endpoint, list[float]]:
    waits: list[float] = []
    return Endpoint(scripted.settings(**changes), waits.append), waits


def test_the_request_holds_what_was_set_and_the_reply_what_came_back(scripted):
    scripted.say(OK)
    asked, waits = endpoint(scripted, top_p=0.9, seed=5, max_tokens=None, extra={"top_k": 1})
    reply = asked.ask(MESSAGES, again=2)
    assert (reply.text, reply.model, reply.finish_reason, reply.usage) == ("yes", "m", "stop", {"total_tokens": 3})
    assert scripted.requests == [
        {"model": "judge-of-tests", "messages": MESSAGES, "temperature": 0.0, "top_p": 0.9, "seed": 7, "top_k": 1}
    ]
    assert scripted.headers[0]["path"] == "/v1/chat/completions" and "Authorization" not in scripted.headers[0]
    assert waits == []


@pytest.mark.parametrize("status", [429, 408, 500, 503])
def test_trouble_that_passes_is_waited_out(scripted, status):
    scripted.say((status, b"busy"), (status, b"busy"), OK)
    asked, waits = endpoint(scripted)
    assert asked.ask(MESSAGES).text == "yes"
    assert len(waits) == 2 and 4.5 <= waits[0] <= 5.5 and 9 <= waits[1] <= 11


def test_after_five_attempts_the_reason_is_told(scripted):
    scripted.say((500, b"out of memory"))
    asked, waits = endpoint(scripted)
    with pytest.raises(JudgeFailed, match="HTTP 500: out of memory .5 attempts.") as failure:
        asked.ask(MESSAGES)
    assert failure.value.passing and len(scripted.requests) == 5
    assert [round(wait / base, 1) for wait, base in zip(waits, (5, 10, 20, 40), strict=True)] == pytest.approx(
        [1, 1, 1, 1], abs=0.11
    )


@pytest.mark.parametrize(
    ("told", "shortest", "longest"),
    [
        ("20", 20, 22),
        ("0.5", 0.5, 0.55),
        (lambda: formatdate(time.time() + 120, usegmt=True), 100, 132),
        ("0", 4.5, 5.5),
        (lambda: formatdate(time.time() - 60, usegmt=True), 4.5, 5.5),
        ("soon", 4.5, 5.5),
        ("", 4.5, 5.5),
    ],
)
def test_what_the_server_asks_to_wait_is_waited(scripted, told, shortest, longest):
    scripted.say((429, b"too many", {"Retry-After": told() if callable(told) else told}), OK)
    asked, waits = endpoint(scripted)
    assert asked.ask(MESSAGES).text == "yes"
    assert len(waits) == 1 and shortest <= waits[0] <= longest


def test_a_wait_of_hours_is_left_to_the_user(scripted):
    scripted.say((429, b"quota", {"Retry-After": "7200"}))
    asked, waits = endpoint(scripted)
    with pytest.raises(JudgeFailed, match="HTTP 429: quota .1 attempt; it asks to wait 7200 s") as failure:
        asked.ask(MESSAGES)
    assert failure.value.passing and len(scripted.requests) == 1 and not waits


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((400, b'{"error": "too long"}'), "HTTP 400: .*too long"),
        ((401, b""), "HTTP 401: .*PAM_KIT_JUDGE_KEY"),
        ((302, b""), "redirects are not followed"),
        ((200, b"<html>welcome</html>"), "no chat completion: <html>welcome"),
        ({"choices": []}, "no chat completion"),
        ({"choices": [{"message": None}]}, "no chat completion"),
        ([1], "no chat completion"),
    ],
)
def test_other_trouble_ends_it_at_once(scripted, answer, reason):
    scripted.say(answer)
    asked, waits = endpoint(scripted)
    with pytest.raises(JudgeFailed, match=reason) as failure:
        asked.ask(MESSAGES)
    assert len(scripted.requests) == 1 and not waits and not failure.value.passing


def test_contents_in_parts_and_none_are_texts(scripted):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    scripted.say({"choices": [{"message": {"content": parts}}]}, {"choices": [{"message": {"content": None}}]})
    asked, _ = endpoint(scripted)
    assert [asked.ask(MESSAGES).text for _ in range(2)] == ["ab", ""]


def test_no_server_is_a_connection_that_failed():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    waits: list[float] = []
    asked = Endpoint(JudgeSettings(f"http://127.0.0.1:{port}/v1", "m"), waits.append)
    with pytest.raises(JudgeFailed, match="connection failed: .*5 attempts"):
        asked.ask(MESSAGES)
    assert len(waits) == 4


def test_a_slow_server_is_a_timeout(scripted):
    def slow(request):
        time.sleep(0.3)
        return OK

    slow.slow = True
    scripted.script = slow
    asked, waits = endpoint(scripted, timeout=0.05)
    with pytest.raises(JudgeFailed, match="no answer within 0.05 s .5 attempts"):
        asked.ask(MESSAGES)
    assert len(waits) == 4


def test_a_stopped_endpoint_asks_no_more(scripted):
    scripted.say((500, b""))
    asked = Endpoint(scripted.settings(), lambda seconds: asked.stop())
    with pytest.raises(JudgeFailed, match="HTTP 500"):
        asked.ask(MESSAGES)
    assert len(scripted.requests) == 2
    with pytest.raises(JudgeFailed, match="stopped"):
        asked.ask(MESSAGES)
    assert len(scripted.requests) == 2


def test_the_key_is_sent_and_never_told(scripted, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    said = json.dumps(OK).replace("yes", "your key is sk-secret-123").encode()
    scripted.say((200, said), (400, b"bad key sk-secret-123"))
    asked, _ = endpoint(scripted, key_variable="MY_KEY")
    assert asked.ask(MESSAGES).text == "your key is [key]"
    assert scripted.headers[0]["Authorization"] == "Bearer sk-secret-123"
    with pytest.raises(JudgeFailed) as failure:
        asked.ask(MESSAGES)
    assert "sk-secret" not in str(failure.value) and "[key]" in str(failure.value)
    assert "sk-secret" not in repr(asked.settings)


def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(scripted, monkeypatch):
    monkeypatch.setenv("PAM_KIT_JUDGE_KEY", "sk-sécret\nX")
    with pytest.raises(PamKitError, match="PAM_KIT_JUDGE_KEY") as error:
        endpoint(scripted)[0].ask(MESSAGES)
    assert "cret" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": "http://host:port/v1"}, "base_url"),
        ({"base_url": "https://me:pass@host/v1"}, "no user, password or query"),
        ({"base_url": "https://host/v1?key=1"}, "no user, password or query"),
        ({"model": ""}, "model"),
        ({"temperature": -1}, "temperature is -1"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"top_p": 0}, "top_p is 0"),
        ({"timeout": 0}, "timeout is 0"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"extra": {"stream": True}}, "'stream'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(changes, message):
    with pytest.raises(PamKitError, match=message) as error:
        JudgeSettings(**{"base_url": "http://localhost:8000/v1", "model": "m"} | changes)
    assert "pass" not in str(error.value).replace("password", "")
