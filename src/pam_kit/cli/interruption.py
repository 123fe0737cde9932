"""Stopping a verb that runs on: by Ctrl-C or SIGTERM between two frames, or by a reader that has gone. Torch-free."""

import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Interruption:
    """Lets Ctrl-C and SIGTERM stop a loop only while it waits for its next item, so that what it keeps stays whole.

    A context manager, for the main thread; elsewhere it changes nothing. A second signal stops at once.
    """

    def __init__(self) -> None:
        self._waiting = self._asked = False
        self._former: dict[int, object] = {}

    def items(self, source: Iterable[Item]) -> Iterator[Item]:
        """The items of ``source``; KeyboardInterrupt is raised where the next one would come."""
        items = iter(source)
        while True:
            self._waiting = True
            try:
                if self._asked:
                    raise KeyboardInterrupt
                item = next(items)
            except StopIteration:
                return
            finally:
                self._waiting = False
            yield item

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)  # type: ignore[arg-type]

    def _stop(self, *_) -> None:
        if self._waiting or self._asked:
            raise KeyboardInterrupt
        self._asked = True


@contextmanager
def until_reader_goes() -> Iterator[None]:
    """End quietly where whoever reads standard output has gone, as in ``pam-kit stream ... | head -1``."""
    try:
        yield
    except BrokenPipeError:
        # Python flushes standard output once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
