"""Clips: which of their frames are read, and frames that come from disk when they are looked at."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

import numpy as np

from pam_kit.data.pictures import read_picture
from pam_kit.errors import BrokenSample, PromptError


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
