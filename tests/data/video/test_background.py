"""Frames ahead on a thread: the same frames, no more than asked for, and no way to hang."""

import itertools
import threading
import time
import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from pam_kit.data.video import BackgroundFrames, Frame, VideoError, VideoSource, open_video

PATIENCE = 10
NUMBERS = itertools.count()


class Made(VideoSource):
    """``count`` frames; ``gate`` is waited for before each, ``fail`` is the frame that raises."""

    def __init__(
        self, count: int, live: bool = False, fail: int | None = None, gate: threading.Semaphore | None = None
    ):
        self.name, self.width, self.height, self.live = f"made {next(NUMBERS)}", 8, 6, live
        self.count, self.fail, self.gate = count, fail, gate
        self.made: list[weakref.ref] = []
        self.given_up = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        try:
            for index in range(self.count):
                if self.gate is not None:
                    self.gate.acquire()
                if index == self.fail:
                    raise VideoError(f"frame {index} is bad")
                frame = Frame(np.full((6, 8, 3), index % 256, np.uint8), index / 10, index)
                self.made.append(weakref.ref(frame))
                yield frame
                del frame
        finally:
            self.given_up.set()

    def alive(self) -> int:
        return sum(ref() is not None for ref in self.made)


def until(condition) -> bool:
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def test_the_same_frames(make_video):
    video = open_video(make_video())
    for frame, expected in zip(BackgroundFrames(video), video, strict=True):
        assert (frame.index, frame.time) == (expected.index, expected.time)
        assert np.array_equal(frame.image, expected.image)


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_than_asked_for(ahead):
    source, given, most = Made(200), 0, 0
    for frame in BackgroundFrames(source, ahead):
        given = frame.index + 1
        if given in (1, 50):
            assert until(lambda: len(source.made) == given + ahead)  # noqa: B023 - called at once
            time.sleep(0.05)
            assert len(source.made) == given + ahead, "the thread waits"
        most = max(most, source.alive())
        del frame
    # The frame in the consumer's hand, the one that the thread is just handing over, and those that wait.
    assert given == 200 and most <= ahead + 2
    assert source.alive() == 0


def test_errors_come_where_the_frame_would_have():
    frames = iter(BackgroundFrames(Made(10, fail=4)))
    assert [next(frames).index for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(VideoError, match="frame 4 is bad"):
        next(frames)


def running(source: Made) -> bool:
    return any(thread.name == f"frames of {source.name}" for thread in threading.enumerate())


def test_left_in_the_middle():
    source = Made(1000)
    frames = BackgroundFrames(source, ahead=2)
    for frame in frames:
        if frame.index == 3:
            break
    assert source.given_up.is_set() and not running(source) and list(frames) == []
    with BackgroundFrames(source), pytest.raises(RuntimeError, match="of the consumer"):
        raise RuntimeError("of the consumer")


def test_no_thread_without_a_consumer():
    """Nothing would end it: an iteration that never began is given up without a word."""
    source = Made(1000)
    frames = BackgroundFrames(source)
    iteration = iter(frames)
    assert not running(source)
    del iteration, frames
    assert not running(source) and not source.made
    with BackgroundFrames(source, ahead=2):
        assert until(lambda: len(source.made) == 2), "before the first frame is asked for"
    assert not running(source)


def test_an_error_that_comes_after_closing_is_nobodys():
    gate = threading.Semaphore(0)
    source = Made(5, fail=0, gate=gate)
    with BackgroundFrames(source) as frames:
        gate.release()
        assert source.given_up.wait(PATIENCE)
    assert list(frames) == []
    source = Made(5, fail=0, gate=gate)
    with BackgroundFrames(source) as frames:
        frames.close()  # the thread still waits for the gate
    gate.release()
    assert until(lambda: not running(source)) and list(frames) == []


def test_closing_does_not_wait_for_a_silent_source():
    gate = threading.Semaphore(0)
    with BackgroundFrames(Made(5, live=True, gate=gate)) as frames:
        start = time.monotonic()
    assert time.monotonic() - start < 3 and list(frames) == []
    gate.release(5)


def test_closing_from_another_thread_ends_a_wait():
    gate = threading.Semaphore(0)
    source = Made(5, live=True, gate=gate)
    frames, got = BackgroundFrames(source), []
    consumer = threading.Thread(target=lambda: got.extend(frames))
    consumer.start()
    assert until(lambda: running(source))
    frames.close()
    consumer.join(PATIENCE)
    assert not consumer.is_alive() and got == []
    gate.release(5)


def test_a_live_source_never_waits():
    source = Made(100, live=True)
    with BackgroundFrames(source, ahead=4, drop=True) as frames:
        assert source.given_up.wait(PATIENCE)
        assert [frame.index for frame in frames] == [96, 97, 98, 99] and frames.dropped == 96


def test_nothing_is_dropped_where_the_consumer_keeps_up():
    gate = threading.Semaphore(1)
    source = Made(50, live=True, gate=gate)
    frames = BackgroundFrames(source, ahead=2, drop=True)
    got = []
    for frame in frames:
        got.append(frame.index)
        gate.release()
    assert got == list(range(50)) and frames.dropped == 0


def test_wrong_use():
    with pytest.raises(VideoError, match="ahead=0: at least 1"):
        BackgroundFrames(Made(3), ahead=0)
    with pytest.raises(VideoError, match=r"made \d+ is not live, so it waits"):
        BackgroundFrames(Made(3), drop=True)
