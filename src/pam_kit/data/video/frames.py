"""What every source of frames offers: frames in order, and those that are stored also from anywhere and backwards."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from pam_kit.data.pictures import MAX_PIXELS
from pam_kit.errors import PamKitError

# So many frames are kept while a video is read backwards.
REVERSE_CHUNK = 32
# Frames a second of what says nothing about time: pictures and raw frames.
PICTURE_RATE = 30.0


class VideoError(PamKitError):
    """A source of frames that cannot be opened or read on; the message names it and says what to do."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a video.

    Args:
        image: (H, W, 3) uint8, RGB, upright.
        time: seconds since the first frame, when it is shown.
        index: its number, counted from 0 in the order of showing.
    """

    image: np.ndarray
    time: float
    index: int


class VideoSource(ABC):
    """Frames in order. A context manager; closing it ends an iteration that is under way, in any thread.

    Args:
        name: for error messages.
        width: of the upright frames, in pixels; ``height`` likewise.
        frame_rate: frames a second on average, None where unknown.
        num_frames: None where unknown, as of a live source.
        live: the frames come when they happen and are lost when nobody takes them.
        damage: why the frames ended before they should have, and behind which frame; None where they did not. It is
            known, and warned of once, when the last readable frame has been given.
    """

    name: str
    width: int
    height: int
    frame_rate: float | None = None
    live: bool = False
    damage: str | None = None
    closed: bool = False

    @property
    def num_frames(self) -> int | None:
        return None

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """The frames in order, decoded when they are asked for.

        A stored source begins anew with every iteration, any other goes on where the last one stopped. Raises
        VideoError for a frame of another size than the first one.
        """

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames ``start`` to ``stop`` - 1 of a stored source; fewer where it ends before.

        Raises VideoError where ``start`` is negative or behind the last frame, and for a source that only goes on.
        """
        raise VideoError(f"{self.name} only goes forward; store it as a video file to read it from frame {start}")

    def reversed(self, stop: int | None = None) -> Iterator[Frame]:
        """Frames ``stop``, ``stop`` - 1, ..., 0 of a stored source, the last frame first by default.

        At most 32 frames are kept. A video with few key frames is decoded many times over. Where its end is damaged,
        the first one is the last that can be read. Raises as ``frames``.
        """
        raise VideoError(f"{self.name} only goes forward; store it as a video file to read it backwards")

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _check_size(self, width: int, height: int, index: int) -> None:
        """Raise VideoError for a frame of another size than the first one."""
        if (width, height) != (self.width, self.height):
            raise VideoError(
                f"{self.name}: frame {index} has {width}x{height} pixels, those before it {self.width}x{self.height}; "
                "cut the video where its size changes, or scale it to one size"
            )

    def _set_damage(self, reason: str, index: int) -> None:
        """Say once that the frames end behind frame ``index``."""
        if self.damage is None:
            self.damage = f"{self.name} ends early, behind frame {index}: {reason}"
            warnings.warn(self.damage, stacklevel=2)


class StoredVideo(VideoSource):
    """Frames that can be read again, from any place."""

    def __iter__(self) -> Iterator[Frame]:
        return self.frames()

    def reversed(self, stop: int | None = None) -> Iterator[Frame]:
        count = self._count()
        if stop is not None and not 0 <= stop < count:
            raise VideoError(f"{self.name} has no frame {stop}; its frames are 0 to {count - 1}")
        return self._backwards(count if stop is None else stop + 1)

    def _backwards(self, end: int) -> Iterator[Frame]:
        while end > 0 and not self.closed:
            start = max(0, end - REVERSE_CHUNK)
            chunk = list(self.frames(start, end))
            while chunk:
                yield chunk.pop()
            end = start

    def _count(self) -> int:
        if self.num_frames is None:
            raise VideoError(f"{self.name}: its number of frames is unknown")
        return self.num_frames


def check_pixels(name: str, width: int, height: int) -> None:
    """Raise VideoError for frames of no or of more pixels than are read as a picture."""
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise VideoError(f"{name}: frames of {width}x{height} pixels; 1 to {MAX_PIXELS} pixels are read")
