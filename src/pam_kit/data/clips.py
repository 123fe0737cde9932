"""Clips: which of their frames are read, and frames that come from disk when they are looked at."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, overload

import numpy as np

from pam_kit.data.pictures import read_picture
from pam_kit.data.video import FileVideo, FrameReader, VideoError
from pam_kit.errors import BrokenSample, PromptError

# Frames of a video clip that stay decoded: those looked at last.
KEPT_FRAMES = 8
# Video files whose frames stay counted; many clips may lie in one.
_KNOWN_VIDEOS = 64


def sampled_frames(count: int, wanted: int, short: Literal["all", "refuse"] = "all") -> list[int]:
    """Which of ``count`` frames are read: the first, which is pointed at, and ``wanted`` - 1 spread evenly behind it.

    The others are ``linspace(1, count - 1, wanted - 1)`` cut to whole numbers, as in the released PAM, which takes 16.
    A clip with fewer frames is read whole; ``refuse`` raises PromptError for it, as the released code does.
    """
    if wanted < 1 or count < 1:
        raise PromptError(f"a clip of {count} frames of which {wanted} are wanted; both must be at least 1")
    if count < wanted and short == "refuse":
        raise PromptError(f"the clip has {count} frames; at least {wanted} are needed")
    if count <= wanted:
        return list(range(count))
    return [0, *np.linspace(1, count - 1, wanted - 1).astype(int).tolist()]


class FrameFiles(Sequence[np.ndarray]):
    """The frames of a clip, (H, W, 3) uint8 each, read when they are looked at.

    The first one, which prompts and regions are checked against before it is read as a frame, is kept; no other is.
    Raises BrokenSample for a frame that cannot be read or has another size than the first one.
    """

    def __init__(self, paths: Sequence[Path], source: str):
        self._paths, self._source = paths, source
        self._size: tuple[int, ...] | None = None
        self._first: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> "FrameFiles": ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return FrameFiles(self._paths[index], self._source)
        number = range(len(self))[index]
        if number == 0 and self._first is not None:
            return self._first
        frame = self._read(number)
        if number == 0:
            self._first = frame
        return frame

    def _read(self, index: int) -> np.ndarray:
        frame = read_picture(self._paths[index], self._source)
        self._size = self._size or frame.shape
        if frame.shape != self._size:
            raise BrokenSample(
                self._source,
                f"frame '{self._paths[index]}' has {frame.shape[1]}x{frame.shape[0]} pixels, others of the clip "
                f"{self._size[1]}x{self._size[0]}",
            )
        return frame


class VideoFrames(Sequence[np.ndarray]):
    """The frames of a clip in a video file, (H, W, 3) uint8 each, decoded when they are looked at.

    The first one is kept, and the 8 that were looked at last; in order, each is decoded once.

    Args:
        video: where they lie.
        source: of the clip, for errors.
        start: its first frame, counted from 0.
        stop: the frame behind its last one; None for the end of the video.
        step: take every so many frames.

    Raises BrokenSample for a file that cannot be read, or not up to ``stop``, here or at the frame where it ends.
    """

    def __init__(self, video: FileVideo, source: str, start: int = 0, stop: int | None = None, step: int = 1):
        count = _counted_frames(video, source)
        if stop is None and video.damage:
            raise BrokenSample(source, f"{video.damage}; give stop to use what is before it")
        if max(start + 1, stop or 0) > count:
            raise BrokenSample(
                source, f"the video '{video.name}' has {count} frames; wanted are {start} to {stop or 'its end'}"
            )
        self._source, self._reader = source, FrameReader(video)
        self._numbers = range(start, count if stop is None else stop, step)
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> "VideoFrames": ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self._part(self._numbers[index])
        number = self._numbers[index]
        if number not in self._kept:
            self._kept[number] = self._read(number)
        self._kept.move_to_end(number)
        self._forget()
        return self._kept[number]

    def _part(self, numbers: range) -> "VideoFrames":
        part = object.__new__(VideoFrames)
        part._source, part._numbers, part._kept = self._source, numbers, OrderedDict()
        part._reader = FrameReader(self._reader.video)
        return part

    def _read(self, number: int) -> np.ndarray:
        try:
            image = self._reader.read(number).image
        except VideoError as error:
            raise BrokenSample(self._source, str(error)) from error
        if number == self._numbers[-1]:
            self._reader.close()  # a file that is open for every clip in memory would be too many
        return image

    def _forget(self) -> None:
        """All but the first frame, which prompts are checked against before it is read, and those looked at last."""
        old = [number for number in self._kept if number != self._numbers[0]]
        for number in old[:-KEPT_FRAMES]:
            del self._kept[number]


def counted_video(path: Path, source: str) -> FileVideo:
    """The video file, looked into once as long as it does not change. Raises BrokenSample where it cannot be read."""
    try:
        facts = path.stat() if path.is_file() else None
        return FileVideo(path) if facts is None else _known_video(path, facts.st_mtime_ns, facts.st_size)
    except (VideoError, OSError) as error:
        raise BrokenSample(source, str(error)) from error


@lru_cache(maxsize=_KNOWN_VIDEOS)
def _known_video(path: Path, modified: int, size: int) -> FileVideo:
    return FileVideo(path)


def _counted_frames(video: FileVideo, source: str) -> int:
    try:
        return video.num_frames
    except VideoError as error:
        raise BrokenSample(source, str(error)) from error
