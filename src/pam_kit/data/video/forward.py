"""Sources that only go on: cameras, addresses, raw frames on standard input."""

import os
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

from pam_kit.data.video.clock import Clock
from pam_kit.data.video.decoding import Pass, upright, upright_size
from pam_kit.data.video.frames import PICTURE_RATE, Frame, VideoError, VideoSource, check_pixels

# What an address may begin with. Others (concat:, file:, subfile: ...) read files of this machine.
SCHEMES = ("http", "https", "rtsp", "rtmp", "udp", "srt", "tcp")
_PROTOCOLS = "http,https,httpproxy,tls,tcp,udp,rtp,rtcp,rtsp,rtmp,srt,crypto"
# Seconds until a source counts as silent: on opening, and between two packets.
TIMEOUTS = (10.0, 10.0)
# Seconds after which a wait for raw frames looks whether the source was closed.
_GLANCE = 0.2


class ForwardVideo(VideoSource):
    """Frames of an opened container that is gone through once, such as of a camera or an address.

    Packets of a live source that cannot be decoded are left out. A connection that breaks, or is silent for 10
    seconds, ends the frames and is told in ``damage``. Where the clock jumps back, as that of a camera that begins
    anew, time goes on a frame behind the last one.

    Raises VideoError where no frame comes.
    """

    def __init__(self, container: "av.container.InputContainer", name: str, live: bool):
        self.name, self.live = name, live
        try:
            self._look(container)
        except VideoError:
            container.close()
            raise

    def _look(self, container: "av.container.InputContainer") -> None:
        """Decode the first frame."""
        self._reading = Pass(container, self.name, tolerant=self.live)
        self._pictures = self._reading.pictures()
        first = next(self._pictures, None)
        if first is None:
            why = self._reading.damage or "it is empty"
            raise VideoError(f"{self.name} gives no frame that can be decoded ({why})")
        self.width, self.height = upright_size(first)
        check_pixels(self.name, self.width, self.height)
        self.frame_rate, self._first, self._next = self._reading.frame_rate, first, 0
        self._clock = Clock(self._reading.ticks(first), float(self._reading.stream.time_base), self.frame_rate)
        self._opened, self._lock = time.monotonic(), threading.Lock()

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self._frame()) is not None:
            yield frame
            del frame  # the consumer's alone; it must not live until the next one is there

    def close(self) -> None:
        super().close()
        self._let_go()

    def _frame(self) -> Frame | None:
        """The next frame; None behind the last one, and once this is closed."""
        try:
            with self._lock:
                picture = None if self.closed else self._picture()
                if picture is None:
                    if self._reading.damage and not self.closed:
                        self._set_damage(self._reading.damage, self._next - 1)
                    return None
                index, self._next = self._next, self._next + 1
                self._check_size(*upright_size(picture), index)
                now = time.monotonic() - self._opened if self.live else None
                seconds = self._clock.time(index, self._reading.ticks(picture), now)
                return Frame(upright(picture), seconds, index)
        finally:
            if self.closed:
                self._let_go()

    def _picture(self) -> av.VideoFrame | None:
        first, self._first = self._first, None
        return next(self._pictures, None) if first is None else first

    def _let_go(self) -> None:
        """Close the container; closed under a thread that reads, FFmpeg would crash: then the thread does it."""
        if self._lock.acquire(blocking=False):
            self._reading.close()
            self._lock.release()


def open_camera(device: str, size: tuple[int, int] | None = None, frame_rate: float | None = None) -> ForwardVideo:
    """The camera ``device``, for example /dev/video0, through Video4Linux; asked for ``size`` and rate where given.

    Raises VideoError where there is no such camera, it is taken, or refuses.
    """
    if not Path(device).exists():
        found = sorted(str(path) for path in Path("/dev").glob("video*"))
        raise VideoError(f"no camera {device}; {'there is ' + ', '.join(found) if found else 'this machine has none'}")
    options = {} if size is None else {"video_size": f"{size[0]}x{size[1]}"}
    if frame_rate is not None:
        options["framerate"] = str(frame_rate)
    return ForwardVideo(_opened(device, device, options, format="video4linux2"), device, live=True)


def open_address(address: str) -> ForwardVideo:
    """The stream at an address; it counts as live where it does not say how long it is.

    Raises VideoError for a scheme that is not allowed, and where nothing answers within 10 seconds.
    """
    scheme = address.partition(":")[0].lower()
    if scheme not in SCHEMES:
        raise VideoError(f"{address}: addresses begin with {', '.join(s + '://' for s in SCHEMES)}")
    options = {"protocol_whitelist": _PROTOCOLS}
    if scheme == "rtsp":
        options["rtsp_transport"] = "tcp"  # over UDP, lost packets become torn pictures
    container = _opened(address, address, options)
    return ForwardVideo(container, address, live=not container.duration)


def _opened(target: str, name: str, options: dict[str, str], **how: Any):
    try:
        return av.open(target, options=options, timeout=TIMEOUTS, **how)
    except av.FFmpegError as error:
        raise VideoError(f"{name} cannot be opened: {error.strerror}") from error


class RawVideo(VideoSource):
    """Raw RGB24 frames, row by row, from a file descriptor, by default standard input; its writer waits for the reader.

    Args:
        size: (width, height).
        frame_rate: frames a second; raw frames say nothing about time.
        descriptor: of an open pipe or file.
    """

    def __init__(self, size: tuple[int, int], frame_rate: float = PICTURE_RATE, descriptor: int = 0, name: str = "-"):
        self.name, self.frame_rate, self._descriptor, self._next = name, frame_rate, descriptor, 0
        self.width, self.height = size
        check_pixels(name, *size)

    def __iter__(self) -> Iterator[Frame]:
        while (image := self._image()) is not None:
            index, self._next = self._next, self._next + 1
            yield Frame(image, index / (self.frame_rate or PICTURE_RATE), index)

    def _image(self) -> np.ndarray | None:
        """The next frame; None at the end, which is damage in the middle of a frame."""
        image: np.ndarray = np.empty((self.height, self.width, 3), dtype=np.uint8)
        filled, place = 0, image.reshape(-1).data
        while filled < len(place):
            if not self._wait():
                return None
            count = os.readv(self._descriptor, [place[filled:]])
            if count == 0:
                if filled:
                    reason = f"{filled} of the {len(place)} bytes of a {self.width}x{self.height} frame came"
                    self._set_damage(f"{reason}; is the size right?", self._next - 1)
                return None
            filled += count
        return image

    def _wait(self) -> bool:
        """Wait until there is something to read, or the end; False once the source is closed."""
        while not self.closed:
            if select.select([self._descriptor], [], [], _GLANCE)[0]:
                return True
        return False
