"""A language model behind an OpenAI-compatible ``/chat/completions`` address, as a judge. Torch-free.

Requests go through the standard library, so that no client package is needed.
"""

import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from pam_kit.errors import PamKitError

Messages: TypeAlias = Sequence[Mapping[str, Any]]

ATTEMPTS = 5
_FIRST_DELAY, _LONGEST_DELAY, _JITTER = 5.0, 60.0, 0.1
# What a server may ask for in Retry-After; a longer wait, such as for tomorrow's quota, is left to the user.
_LONGEST_ASKED_DELAY = 600.0
# Too slow, and too many at once; above 499 it is the server that fails.
_PASSING_STATUS = (408, 429)
# Of this one request: its form, its length, what it is about.
_REFUSED_STATUS = (400, 413, 422)
_SHOWN = 300


class JudgeFailed(Exception):
    """No reply to one request.

    Args:
        reason: in words.
        passing: whether waiting longer might help.
        refused: whether it lies in what was asked, so that other questions may well be answered.
        delay: the seconds that the server asks to wait before the next attempt; None where it names none.
    """

    def __init__(self, reason: str, passing: bool = False, refused: bool = False, delay: float | None = None):
        self.reason, self.passing, self.refused, self.delay = reason, passing, refused, delay
        super().__init__(reason)


class JudgeStopped(JudgeFailed):
    """It was not asked, since the run ends."""


@dataclass(frozen=True)
class JudgeSettings:
    """Which model judges, where it is asked and how.

    Args:
        base_url: up to, without, ``/chat/completions``, for example ``http://localhost:8000/v1``.
        model: the name under which the endpoint knows it.
        temperature, max_tokens, top_p, seed: sent as they are; None leaves one out. ``seed`` grows by one each time
            that a reply could not be read and is asked for again.
        timeout: of one request, in seconds.
        concurrency: how many requests are under way at once.
        key_variable: the environment variable that holds the key; unset, none is sent. The key is written nowhere.
        extra: further fields of the request, for what one server alone understands.

    Raises:
        PamKitError: for a value that cannot be used.
    """

    base_url: str
    model: str
    temperature: float | None = 0.0
    max_tokens: int | None = 4096
    top_p: float | None = None
    seed: int | None = None
    timeout: float = 120.0
    concurrency: int = 4
    key_variable: str = "PAM_KIT_JUDGE_KEY"
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        _check_address(self.base_url, self.key_variable)
        if not self.model:
            raise PamKitError("the judge needs a model: the name under which the endpoint knows it")
        checks = {
            "temperature": (self.temperature is None or self.temperature >= 0, "0 or more"),
            "max_tokens": (self.max_tokens is None or self.max_tokens >= 1, "1 or more"),
            "top_p": (self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1"),
            "timeout": (self.timeout > 0, "above 0"),
            "concurrency": (self.concurrency >= 1, "1 or more"),
        }
        for name, (good, expected) in checks.items():
            if not good:
                raise PamKitError(f"the judge's {name} is {getattr(self, name)}; expected {expected}")
        if taken := sorted({"model", "messages", "stream"}.intersection(self.extra)):
            raise PamKitError(f"extra must not set {taken[0]!r} of a request to the judge")

    @property
    def parameters(self) -> dict[str, Any]:
        """What a request holds beside model and messages."""
        named = {name: getattr(self, name) for name in ("temperature", "max_tokens", "top_p", "seed")}
        return {name: value for name, value in named.items() if value is not None} | dict(self.extra)


def _check_address(base_url: str, key_variable: str) -> None:
    """No message shows the address: people put keys into them."""
    try:
        address = urlsplit(base_url)
        good = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
    except ValueError:
        good = False
    if not good:
        raise PamKitError("the judge's base_url is no address; expected one such as http://localhost:8000/v1")
    if address.username or address.password or address.query:
        raise PamKitError(
            f"the judge's base_url must hold no user, password or query; a key belongs in the variable {key_variable}"
        )


@dataclass(frozen=True)
class Reply:
    """What came back: the text, the model that says it wrote it, why it stopped, and the tokens used."""

    text: str
    model: str = ""
    finish_reason: str = ""
    usage: dict[str, Any] = field(default_factory=dict)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected request would carry the key to another host."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        return None


class Endpoint:
    """Asks, and asks again where the trouble may pass.

    Args:
        settings: whom and how.
        wait: how the seconds between two attempts pass; by default they end early after ``stop``.
    """

    def __init__(self, settings: JudgeSettings, wait: Callable[[float], object] | None = None):
        self.settings = settings
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._url = f"{settings.base_url.rstrip('/')}/chat/completions"

    def stop(self) -> None:
        """No further attempts."""
        self._stopped.set()

    def ask(self, messages: Messages, again: int = 0) -> Reply:
        """The reply to ``messages``; ``again`` counts how often it was asked for before.

        After a rate limit, a timeout, a lost connection or an error of the server there are up to 5 attempts, with
        5, 10, 20 and 40 seconds (+-10 %) between them, or what the server asks for in ``Retry-After``, up to 10
        minutes. Raises JudgeFailed with the last one's reason.
        """
        if self._stopped.is_set():
            raise JudgeStopped("stopped before it was asked", passing=True)
        body = json.dumps(self._request(messages, again)).encode()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._send(body)
            except JudgeFailed as failure:
                if not failure.passing:
                    raise
                last = failure
            if attempt == ATTEMPTS or self._stopped.is_set() or (last.delay or 0) > _LONGEST_ASKED_DELAY:
                break
            self._wait(_delay(attempt, last.delay))
        told = f"; it asks to wait {last.delay:.0f} s" if last.delay else ""
        raise JudgeFailed(f"{last.reason} ({attempt} attempt{'s' * (attempt > 1)}{told})", passing=True)

    def _request(self, messages: Messages, again: int) -> dict[str, Any]:
        request = {"model": self.settings.model, "messages": list(messages), **self.settings.parameters}
        if "seed" in request:
            request["seed"] += again
        return request

    def _send(self, body: bytes) -> Reply:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, body, headers)
        try:
            with self._opener.open(request, timeout=self.settings.timeout) as answer:
                text = answer.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except TimeoutError:
            raise JudgeFailed(f"no answer within {self.settings.timeout:g} s", passing=True) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise JudgeFailed(f"the connection failed: {self._public(str(reason))}", passing=True) from None
        return _reply(self._public(text))

    def _refusal(self, error: urllib.error.HTTPError) -> JudgeFailed:
        with error:
            try:
                said = error.read().decode("utf-8", "replace")
            except (OSError, http.client.HTTPException):
                said = ""
        reason = f"HTTP {error.code}: {_shown(self._public(said)) or error.reason}"
        if error.code in (401, 403):
            reason += f"; put the endpoint's key into the environment variable {self.settings.key_variable}"
        if 300 <= error.code < 400:
            reason += "; redirects are not followed, for the key's sake: give the address it moved to as base_url"
        passing = error.code in _PASSING_STATUS or error.code >= 500
        return JudgeFailed(reason, passing, error.code in _REFUSED_STATUS, _asked_delay(error.headers))

    def _key(self) -> str:
        key = os.environ.get(self.settings.key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise PamKitError(
                f"the environment variable {self.settings.key_variable} holds no key: not printable ASCII"
            )
        return key

    def _public(self, text: str) -> str:
        """Without the key, should the server repeat it."""
        key = self._key()
        return text.replace(key, "[key]") if key else text


def _delay(attempt: int, asked: float | None) -> float:
    """Seconds until the next attempt; never less than the server asks for, and not the same for all that wait."""
    if asked:
        return asked * random.uniform(1, 1 + _JITTER)
    own = min(_FIRST_DELAY * 2 ** (attempt - 1), _LONGEST_DELAY)
    return own * random.uniform(1 - _JITTER, 1 + _JITTER)


def _asked_delay(headers: Message) -> float | None:
    """``Retry-After`` in seconds, whether it is a number or a date; None where it is neither or is over."""
    told = (headers.get("Retry-After") or "").strip()
    try:
        seconds = float(told) if told[:1].isdigit() else parsedate_to_datetime(told).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return seconds if seconds > 0 else None


def _reply(text: str) -> Reply:
    try:
        answer = json.loads(text)
        choice = answer["choices"][0]
        content = choice["message"].get("content")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise JudgeFailed(f"the answer is no chat completion: {_shown(text)}") from None
    if isinstance(content, list):  # in parts
        content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
    usage = answer.get("usage")
    return Reply(
        text=content if isinstance(content, str) else "",
        model=str(answer.get("model") or ""),
        finish_reason=str(choice.get("finish_reason") or ""),
        usage=usage if isinstance(usage, dict) else {},
    )


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."
