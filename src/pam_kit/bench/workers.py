"""Processes that do pieces of work, each in one way, and wait for the next one in between. Torch-free."""

import json
import subprocess
import sys
from dataclasses import asdict
from tempfile import TemporaryFile
from typing import Any, Self

from pam_kit.bench.works import ModelChoice, Work
from pam_kit.errors import PamKitError


class Worker:
    """A process with the model in its memory. A context manager.

    Attributes:
        facts: what is measured, and where.

    Args:
        choice: the model.
        path: ``kit`` or ``plain``.
        device: where it computes; None leaves it to the process.
        warm_up: done once ahead of everything.
    """

    def __init__(self, choice: ModelChoice, path: str, device: str | None, warm_up: Work):
        self._job = {"model": asdict(choice), "path": path, "device": device, "warm_up": asdict(warm_up)}
        self.path = path

    def __enter__(self) -> Self:
        self._complaints = TemporaryFile("w+", encoding="utf-8", errors="replace")
        # -P keeps the working directory off the module path.
        command = [sys.executable, "-P", "-m", "pam_kit.bench.measured_inference", json.dumps(self._job)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._complaints}
        self._process = subprocess.Popen(command, encoding="utf-8", **pipes)  # type: ignore[call-overload]
        try:
            self.facts = self._answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        # Whatever it was asked is not wanted any more.
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._complaints.close()

    def time(self, work: Work, outputs: str | None = None, with_roofline: bool = False) -> dict[str, Any]:
        """Do the work; -> seconds and what was done in them, see ``measured_inference.Timing``."""
        return self._done(what="time", work=asdict(work), outputs=outputs, with_roofline=with_roofline)

    def memory(self, work: Work) -> dict[str, float]:
        """Do the work; -> megabytes, see ``measured_inference.Memory``. Nothing is timed behind it."""
        return self._done(what="memory", work=asdict(work))

    def _done(self, **asked: Any) -> dict[str, Any]:
        try:
            print(json.dumps(asked), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            pass  # it has ended, and tells why
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if line:
            answer = json.loads(line)
            if "error" in answer:
                raise PamKitError(answer["error"])
            return answer
        status = self._process.wait()
        self._complaints.seek(0)
        end = "\n".join(self._complaints.read().strip().splitlines()[-5:])
        raise PamKitError(f"the process that measures the {self.path} path failed with exit status {status}:\n{end}")
