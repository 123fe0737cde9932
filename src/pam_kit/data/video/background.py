"""Frames decoded on a thread of their own, a few ahead of who takes them."""

import threading
from collections import deque
from collections.abc import Iterator
from typing import Self

from pam_kit.data.video.frames import Frame, VideoError, VideoSource

# Seconds that closing waits for the thread; one that waits for a silent camera goes on its own when it wakes.
_PATIENCE = 1.0


class BackgroundFrames:
    """The frames of ``source`` in order, decoded on a background thread; iterated once, by one consumer.

    At most ``ahead`` frames are kept. Errors of the thread are raised where the frame would have come. A context
    manager; entering it, or asking for the first frame, starts the thread; leaving it, or an iteration that is left in
    the middle, ends the thread, and no frame or error comes any more. ``source`` stays the caller's.

    Args:
        source: what to read, from where it stands.
        ahead: frames that may wait.
        drop: never make the source wait: the oldest waiting frame gives way to a new one, for live sources.

    Attributes:
        dropped: how many frames gave way so far.

    Raises VideoError where ``ahead`` is below 1, or ``drop`` is asked for a source that can wait.
    """

    def __init__(self, source: VideoSource, ahead: int = 8, drop: bool = False):
        if ahead < 1:
            raise VideoError(f"ahead={ahead}: at least 1 frame has to wait")
        if drop and not source.live:
            raise VideoError(f"{source.name} is not live, so it waits; dropping its frames would only lose them")
        self.source, self.ahead, self.drop, self.dropped = source, ahead, drop, 0
        self._waiting: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._started = self._ended = self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._decode, name=f"frames of {source.name}", daemon=True)

    def __iter__(self) -> Iterator[Frame]:
        self._start()
        try:
            while (frame := self._take()) is not None:
                yield frame
                del frame  # the consumer's alone; it must not live until the next one is there
        finally:
            self.close()

    def close(self) -> None:
        """End the thread and forget the waiting frames. Returns within about a second, whatever the source does."""
        with self._changed:
            self._stopped = True
            self._waiting.clear()
            self._error = None
            self._changed.notify_all()
        if self._started and self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _start(self) -> None:
        """Start the thread once, and only where ``close`` is sure to be called: nothing else would end it."""
        with self._changed:
            if not (self._started or self._stopped):
                self._thread.start()
                self._started = True

    def _take(self) -> Frame | None:
        """The next frame, None behind the last one."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended or self._stopped)
            if self._waiting:
                self._changed.notify_all()
                return self._waiting.popleft()
            error, self._error = self._error, None
        if error is not None:
            raise error
        return None

    def _decode(self) -> None:
        try:
            frames = iter(self.source)
            # Room first: a frame that is decoded and waits for room would be one more than ``ahead``.
            while self._room() and (frame := next(frames, None)) is not None:
                self._put(frame)
                del frame
            del frames  # closes what the iteration has open, in the thread that used it
        except BaseException as error:
            with self._changed:  # once it is closed, nobody will ask
                self._error = None if self._stopped else error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _room(self) -> bool:
        """Wait until one more frame may be kept; False once this is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self.drop or len(self._waiting) < self.ahead)
            return not self._stopped

    def _put(self, frame: Frame) -> None:
        with self._changed:
            if self._stopped:
                return
            if len(self._waiting) == self.ahead:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(frame)
            self._changed.notify_all()
