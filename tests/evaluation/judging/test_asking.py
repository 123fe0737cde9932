"""Transcripts: what is recorded and when, that nothing recorded is asked again, and when a judge is given up."""

import json
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from pam_kit.errors import PamKitError
from pam_kit.evaluation.judging.asking import HOPELESS, Judge, Question
from pam_kit.evaluation.judging.transcript import Transcript


def read(reply: str) -> dict[str, float | None]:
    words = reply.split()
    return {name: float(words[i]) if len(words) > i else None for i, name in enumerate(("one", "two"))}


def told(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def questions(*texts: str) -> list[Question]:
    return [Question(f"q{i}", partial(told, text), read) for i, text in enumerate(texts)]


def echo(request) -> str:
    """Replies with the question."""
    return request["messages"][-1]["content"]


def lines(path) -> list[bytes]:
    """Of a transcript, sorted: those of questions that are under way together come in any order."""
    return sorted(path.read_bytes().splitlines())


def ask(scripted, path, *texts: str, offline: bool = False, **changes):
    judge = Judge(scripted.settings(**changes), path, offline, wait=lambda seconds: None)
    return list(judge.ask(questions(*texts)))


def test_a_call_is_a_line_without_question_key_or_address(scripted, tmp_path, monkeypatch):
    monkeypatch.setenv("PAM_KIT_JUDGE_KEY", "sk-secret-123")
    scripted.script = lambda request: "1 2 sk-secret-123"
    ask(scripted, tmp_path / "t.jsonl", "a question")
    content = (tmp_path / "t.jsonl").read_text(encoding="utf-8")
    line = json.loads(content)
    assert line["text"] == "1 2 [key]" and line["model"] == "judge-of-tests-0601" and line["asked"] == "judge-of-tests"
    assert line["usage"] == {"total_tokens": 7} and line["finish_reason"] == "stop" and line["again"] == 0
    assert len(line["request"]) == len(line["messages"]) == 64
    for secret in ("sk-secret", "a question", "127.0.0.1", "Bearer"):
        assert secret not in content


def test_what_is_recorded_is_not_asked_again(scripted, tmp_path):
    scripted.script = echo
    path = tmp_path / "t.jsonl"
    first = ask(scripted, path, "1 2", "3 4")
    content = path.read_bytes()
    again = ask(scripted, path, "1 2", "3 4")
    offline = ask(scripted, path, "1 2", "3 4", offline=True)
    assert len(scripted.requests) == 2 and path.read_bytes() == content
    assert [v.scores for v in again] == [v.scores for v in first] == [v.scores for v in offline]
    for changes in ({"temperature": 0.5}, {"model": "another"}, {"seed": 1}, {"max_tokens": 10}):
        ask(scripted, path, "1 2", **changes)
    assert len(scripted.requests) == 6
    ask(scripted, path, "1 2", timeout=3.0, concurrency=1)
    assert len(scripted.requests) == 6


def test_an_unreadable_reply_is_asked_for_twice_more(scripted, tmp_path):
    scripted.say("", "1", "")
    verdict = ask(scripted, tmp_path / "t.jsonl", "q", seed=3)[0]
    assert len(verdict.calls) == 3 and [call.again for call in verdict.calls] == [0, 1, 2]
    assert [request["seed"] for request in scripted.requests] == [3, 4, 5]
    assert verdict.scores == {"one": 1, "two": None} and "no scores could be read in 3 replies" in verdict.failure
    assert verdict.first_reply.text == ""


def test_a_cut_off_reply_is_a_failure_even_if_it_can_be_read(scripted, tmp_path):
    cut = {"choices": [{"message": {"content": "1 2"}, "finish_reason": "length"}]}
    scripted.say(cut, "3 4")
    assert ask(scripted, tmp_path / "t.jsonl", "q")[0].scores == {"one": 3, "two": 4}
    scripted.say(cut)
    verdict = ask(scripted, tmp_path / "u.jsonl", "q")[0]
    assert verdict.scores == {"one": None, "two": None} and "cut off at max_tokens" in verdict.failure


def test_a_question_without_reply_is_told_recorded_and_asked_next_time(scripted, tmp_path):
    path = tmp_path / "t.jsonl"
    scripted.script = lambda request: (400, b"too long") if "5" in echo(request) else echo(request)
    verdicts = ask(scripted, path, "1 2", "5 6", "3 4")
    assert [v.complete for v in verdicts] == [True, False, True] and "too long" in verdicts[1].failure
    assert sorted(json.loads(line).get("error", "") for line in lines(path))[::2] == ["", "HTTP 400: too long"]
    assert "too long" in ask(scripted, path, "5 6", offline=True)[0].failure
    scripted.script = echo
    asked = len(scripted.requests)
    assert ask(scripted, path, "1 2", "5 6", "3 4")[1].scores == {"one": 5, "two": 6}
    assert len(scripted.requests) == asked + 1
    assert ask(scripted, path, "5 6", offline=True)[0].complete


def test_an_endpoint_that_never_answers_ends_the_run(scripted, tmp_path):
    scripted.say((401, b"no key"))
    with pytest.raises(PamKitError, match="judge-of-tests does not answer: HTTP 401: no key.*5 calls in a row"):
        ask(scripted, tmp_path / "t.jsonl", *(f"{i}" for i in range(40)), concurrency=1)
    assert len(scripted.requests) == HOPELESS


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("trouble", [(401, b"no key"), (503, b"down"), (200, b"<html>")])
def test_a_resumed_run_ends_where_the_endpoint_answers_no_more(scripted, tmp_path, trouble, concurrency):
    path, texts = tmp_path / "t.jsonl", [f"{i} {i}" for i in range(60)]
    scripted.script = echo
    ask(scripted, path, *texts[:20])
    replies = set(lines(path))
    scripted.requests.clear()
    scripted.say(trouble)
    with pytest.raises(PamKitError, match="does not answer: .*5 calls in a row.*t.jsonl keeps all"):
        ask(scripted, path, *texts, concurrency=concurrency)
    assert len({echo(request) for request in scripted.requests}) < HOPELESS + concurrency
    assert replies <= set(lines(path))
    scripted.script = echo
    scripted.requests.clear()
    assert all(verdict.complete for verdict in ask(scripted, path, *texts)) and len(scripted.requests) == 40


def test_failures_with_replies_between_them_do_not_end_a_run(scripted, tmp_path):
    scripted.script = lambda request: echo(request) if int(echo(request)) % HOPELESS == 0 else (404, b"lost")
    verdicts = ask(scripted, tmp_path / "t.jsonl", *(str(i) for i in range(30)), concurrency=1)
    assert [verdict.calls[0].reply is not None for verdict in verdicts] == [i % HOPELESS == 0 for i in range(30)]


def test_questions_that_are_refused_do_not_speak_against_a_judge_that_answers_others(scripted, tmp_path):
    path = tmp_path / "t.jsonl"
    refused = [f"bad {i}" for i in range(3 * HOPELESS)]
    scripted.script = lambda request: (400, b"flagged") if "bad" in echo(request) else echo(request)
    first = ask(scripted, path, "1 2", *refused, concurrency=1)
    # Nor do they in a run that has nothing else left to ask.
    again = ask(scripted, path, *refused, "1 2", concurrency=1)
    assert [v.failure for v in first[1:]] == [v.failure for v in again[:-1]] == ["HTTP 400: flagged"] * len(refused)
    with pytest.raises(PamKitError, match="does not answer: HTTP 400: flagged"):
        ask(scripted, tmp_path / "other.jsonl", *refused, concurrency=1)


def test_a_reply_is_recorded_while_an_earlier_question_is_under_way(scripted, tmp_path):
    path, later = tmp_path / "t.jsonl", threading.Event()

    def slow_first(request):
        if echo(request) == "0 0":
            assert later.wait(10)
            # What came since is on the disk, though the first question has no reply yet.
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and (not path.is_file() or len(lines(path)) < 3):
                time.sleep(0.01)
            return f"{len(lines(path))} 0"
        if echo(request) == "3 3":
            later.set()
        return echo(request)

    slow_first.slow = True
    scripted.script = slow_first
    verdicts = ask(scripted, path, *(f"{i} {i}" for i in range(4)), concurrency=2)
    assert verdicts[0].scores == {"one": 3, "two": 0} and [v.id for v in verdicts] == ["q0", "q1", "q2", "q3"]


def test_concurrency_changes_neither_verdicts_nor_calls(scripted, tmp_path):
    texts = [f"{i} {i}" if i % 5 else f"{i}" for i in range(30)]

    def jittered(request):
        time.sleep(random.Random(echo(request)).random() / 100)
        return echo(request)

    jittered.slow = True
    scripted.script = jittered
    one = ask(scripted, tmp_path / "one.jsonl", *texts, concurrency=1)
    many = ask(scripted, tmp_path / "many.jsonl", *texts, concurrency=8)
    assert lines(tmp_path / "one.jsonl") == lines(tmp_path / "many.jsonl")
    assert [v.id for v in many] == [f"q{i}" for i in range(30)] and [v.scores for v in one] == [v.scores for v in many]
    assert [v.complete for v in many] == [bool(i % 5) for i in range(30)]


def test_a_killed_run_goes_on_where_it_was(scripted, tmp_path):
    texts = [f"{i} {i}" if i % 4 else f"{i}" for i in range(10)]
    scripted.script = echo
    ask(scripted, tmp_path / "whole.jsonl", *texts)
    whole = (tmp_path / "whole.jsonl").read_bytes()
    for size in random.Random(0).sample(range(1, len(whole)), 12):
        path = tmp_path / f"{size}.jsonl"
        path.write_bytes(whole[:size])
        cut = not whole[:size].endswith(b"\n")
        scripted.requests.clear()
        judge = Judge(scripted.settings(), path, wait=lambda seconds: None)
        assert ["cut off" in note for note in judge.transcript.notes] == [True] * cut
        assert len(list(judge.ask(questions(*texts)))) == 10
        assert lines(path) == sorted(whole.splitlines())
        assert len(scripted.requests) == whole.count(b"\n") - whole[:size].count(b"\n")


RUN = """
import sys
from functools import partial
from pam_kit.evaluation.judging.asking import Judge, Question
from pam_kit.evaluation.judging.endpoint import JudgeSettings
told = lambda text: [{"role": "user", "content": text}]
read = lambda reply: {"one": float(reply) if reply else None}
questions = [Question(str(i), partial(told, str(i)), read) for i in range(40)]
list(Judge(JudgeSettings(sys.argv[1], "judge-of-tests", concurrency=2), sys.argv[2]).ask(questions))
"""


def one_number(reply: str) -> dict[str, float | None]:
    return {"one": float(reply) if reply else None}


def test_a_process_that_is_killed_leaves_a_transcript_to_go_on_from(scripted, tmp_path):
    path = tmp_path / "t.jsonl"
    process = subprocess.Popen([sys.executable, "-c", RUN, scripted.url, str(path)])

    def deadly(request):
        if echo(request) == "25":
            process.kill()
        return echo(request)

    scripted.script = deadly
    assert process.wait(60) == -signal.SIGKILL
    kept = path.read_bytes().count(b"\n")
    assert 5 < kept < 40
    scripted.script = echo
    scripted.requests.clear()
    judge = Judge(scripted.settings(), path)
    single = [Question(str(i), partial(told, str(i)), one_number) for i in range(40)]
    assert [verdict.scores for verdict in judge.ask(single)] == [{"one": i} for i in range(40)]
    assert len(scripted.requests) == 40 - kept
    assert sorted(int(json.loads(line)["text"]) for line in lines(path)) == list(range(40))


def test_stopping_in_the_middle_keeps_what_was_said(scripted, tmp_path):
    scripted.script = echo
    judge = Judge(scripted.settings(concurrency=2), tmp_path / "t.jsonl")
    verdicts = judge.ask(questions(*(f"{i} {i}" for i in range(40))))
    assert [next(verdicts).id for _ in range(3)] == ["q0", "q1", "q2"]
    verdicts.close()
    assert 3 <= len(Transcript(tmp_path / "t.jsonl")) == len(scripted.requests) < 20


def test_the_same_question_is_asked_once(scripted, tmp_path):
    scripted.script = echo
    verdicts = ask(scripted, tmp_path / "t.jsonl", *["1 2"] * 6)
    assert len(scripted.requests) == 1 and [v.scores for v in verdicts] == [{"one": 1, "two": 2}] * 6


def test_offline_asks_nothing_and_names_what_is_missing(scripted, tmp_path):
    path = tmp_path / "t.jsonl"
    with pytest.raises(PamKitError, match="no transcript .*t.jsonl"):
        Judge(scripted.settings(), path, offline=True)
    scripted.script = echo
    ask(scripted, path, "1 2")
    path.write_bytes(path.read_bytes() + b'{"request": "half')
    content, asked = path.read_bytes(), len(scripted.requests)
    with pytest.raises(PamKitError, match="no reply of judge-of-tests about 'q1'.*without offline"):
        ask(scripted, path, "1 2", "3 4", offline=True)
    assert path.read_bytes() == content and len(scripted.requests) == asked


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "{}", '{"request": "a", "again": 0, "messages": "b", "asked": "c", "text": null, "model": ""}'],
)
def test_a_line_that_is_no_call_is_named(tmp_path, line):
    path = tmp_path / "t.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(PamKitError, match="t.jsonl:2: not a recorded call"):
        Transcript(path)


def test_any_text_survives_the_transcript(scripted, tmp_path):
    text = "1 2\n水 \u2028 \U0001f98a \ud83d"
    scripted.script = lambda request: text
    ask(scripted, tmp_path / "t.jsonl", "q")
    assert ask(scripted, tmp_path / "t.jsonl", "q", offline=True)[0].first_reply.text == text
