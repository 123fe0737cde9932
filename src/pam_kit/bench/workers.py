"""Processes that do what they are asked, one thing at a time, and wait in between. Torch-free.

Both sides are here: ``Worker`` starts a process and asks it, ``serve`` is what such a process does. What passes between
them is one JSON object a line.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from tempfile import TemporaryFile
from typing import Any, Self

from pam_kit.errors import PamKitError

Told = dict[str, Any]


class Worker:
    """A process that gets ready by itself from the moment it is entered. A context manager.

    Args:
        name: of what it does, for messages.
        module: what is run; its ``main`` calls ``serve``.
        job: what it gets ready for.
        environment: variables beside those of this process.
    """

    def __init__(self, name: str, module: str, job: Told, environment: Mapping[str, str] | None = None):
        self.name, self._environment = name, os.environ | (environment or {})
        # -P keeps the working directory off the module path.
        self._command = [sys.executable, "-P", "-m", module, json.dumps(job)]

    def __enter__(self) -> Self:
        self._complaints = TemporaryFile("w+", encoding="utf-8", errors="replace")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._complaints}
        self._process = subprocess.Popen(self._command, encoding="utf-8", env=self._environment, **pipes)  # type: ignore[call-overload]
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        # Whatever it was asked is not wanted any more.
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._complaints.close()

    @cached_property
    def facts(self) -> Told:
        """What it said when it was ready; waits for that."""
        return self._answer()

    def ask(self, **asked: Any) -> Told:
        """Wait for what comes of one thing.

        Raises:
            PamKitError: it could not be done, or the process has ended.
        """
        assert self.facts is not None  # what it says first is no answer
        try:
            print(json.dumps(asked), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            pass  # it has ended, and tells why
        return self._answer()

    def _answer(self) -> Told:
        line = self._process.stdout.readline()
        if line:
            answer = json.loads(line)
            if "error" in answer:
                raise PamKitError(answer["error"])
            return answer
        status = self._process.wait()
        self._complaints.seek(0)
        end = "\n".join(self._complaints.read().strip().splitlines()[-5:])
        raise PamKitError(f"the process that measures {self.name} failed with exit status {status}:\n{end}")


def serve(get_ready: Callable[[Told], tuple[Told, Callable[[Told], Told]]]) -> None:
    """Get ready for the job that the command line holds, then do what standard input asks, until it ends.

    Args:
        get_ready: job -> what is told then, and what does one thing that is asked.
    """
    # What libraries print is none of the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(answer: Told) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        facts, do = get_ready(json.loads(sys.argv[1]))
        tell(facts)
        for line in sys.stdin:
            tell(do(json.loads(line)))
    except PamKitError as error:
        tell({"error": str(error)})
