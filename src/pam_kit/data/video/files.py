"""Video files: opened with care, read from any frame exactly, also with B-frames and a variable frame rate."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path

import av
import numpy as np

from pam_kit.data.video.clock import Clock
from pam_kit.data.video.decoding import Pass, upright, upright_size
from pam_kit.data.video.frames import Frame, StoredVideo, VideoError
from pam_kit.registry import suggest

# Containers only: a playlist or a list of parts could name any other file of this machine.
_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,mxf,nut,ivf,gif,h264,hevc,m4v,av1,obu,mjpeg,"
    "yuv4mpegpipe,dv,rm,wtv"
)
FILE_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}


@dataclass(frozen=True, eq=False, slots=True)
class Shown:
    """A decoded picture before it is turned into RGB: its number, and when it is shown, in seconds."""

    index: int
    time: float
    picture: av.VideoFrame


class FileVideo(StoredVideo):
    """A video file. Each iteration has a decoder of its own; no file stays open between them.

    The end of a file that is damaged or cut off is missing: the frames before it are given, then ``damage`` says why.
    Pixels that are not square stay as they are stored. Where the clock jumps back, as where two files were joined, time
    goes on a frame behind the last one; such a file is read from its start, whatever frame is asked for.

    Raises:
        VideoError: there is no such file, it is no video, holds no frame, cannot be decoded or is too large.
    """

    def __init__(self, path: str | Path):
        _check_file(Path(path))
        self._look(f"file:{Path(path).absolute()}", str(path))

    def _look(self, target: str | bytes, name: str) -> None:
        """Decode the first frame."""
        self._target, self.name = target, name
        reading = self._open()
        try:
            first = next(reading.pictures(), None)
            if first is None:
                raise VideoError(f"{self.name} holds no frame that can be decoded ({reading.damage or 'it is empty'})")
            self.width, self.height = upright_size(first)
            self.frame_rate = reading.frame_rate
            self._first_ticks, self._tick = reading.ticks(first), float(reading.stream.time_base)
        finally:
            reading.close()

    @cached_property
    def num_frames(self) -> int:
        """The file is gone through once for it, without being decoded where its packets say their times.

        Of a damaged file it is what the packets promise; an iteration may give a frame or two more or fewer.
        """
        if self._table is not None:
            return len(self._table[0])
        return sum(1 for _ in self.pictures())

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        if start < 0 or (start and start >= self.num_frames):
            raise VideoError(f"{self.name} has no frame {start}; its frames are 0 to {self.num_frames - 1}")
        return self._frames(start, stop)

    def pictures(self, start: int = 0) -> Iterator[Shown]:
        """The frames from ``start`` on, before they are turned into RGB."""
        reading = self._open()
        try:
            first, pictures = start, self._sought(reading, start)
            if pictures is None:  # the file does not lead to that frame: count the frames up to it
                reading.close()
                reading = self._open()
                first, pictures = 0, reading.pictures()
            for shown in self._counted(reading, pictures, first):
                if shown.index >= start:
                    yield shown
        finally:
            reading.close()

    def frame_of(self, shown: Shown) -> Frame:
        """What ``frames`` gives of the picture. Raises VideoError where it has another size than the first one."""
        self._check_size(*upright_size(shown.picture), shown.index)
        return Frame(upright(shown.picture), shown.time, shown.index)

    def key_frame(self, index: int) -> int:
        """The last frame at or before ``index`` at which decoding can begin."""
        if self._table is None:
            return 0
        keys = self._table[1]
        return int(keys[np.searchsorted(keys, index, side="right") - 1])

    def _frames(self, start: int, stop: int | None) -> Iterator[Frame]:
        if stop is not None and stop <= start:
            return
        for shown in self.pictures(start):
            yield self.frame_of(shown)
            if shown.index + 1 == stop:
                return

    def _counted(self, reading: Pass, pictures: Iterator[av.VideoFrame], start: int) -> Iterator[Shown]:
        index, clock = start - 1, Clock(self._first_ticks, self._tick, self.frame_rate)
        for index, picture in enumerate(pictures, start):
            if self.closed:
                return
            yield Shown(index, clock.time(index, reading.ticks(picture)), picture)
        if reading.damage:
            self._set_damage(reading.damage, index)

    def _sought(self, reading: Pass, start: int) -> Iterator[av.VideoFrame] | None:
        """The pictures from frame ``start`` on; None where a key frame before it does not lead there."""
        if not start:
            return reading.pictures()
        if self._table is None:
            return None
        target = int(self._table[0][start])
        reading.seek(target)
        pictures = reading.pictures()
        first = next((picture for picture in pictures if picture.pts is None or picture.pts >= target), None)
        if first is None or first.pts != target:
            return None
        return itertools.chain([first], pictures)

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Presentation times of all frames in ascending order and the numbers of the key frames among them.

        None where packets do not say when they are shown, several say the same, or the clock jumps back.
        """
        reading = self._open()
        try:
            table = _time_table(reading)
        finally:
            reading.close()
        if table is not None and reading.damage:
            self._set_damage(reading.damage, len(table[0]) - 1)
        return table

    def _open(self) -> Pass:
        try:
            target = BytesIO(self._target) if isinstance(self._target, bytes) else self._target
            container = av.open(target, options=FILE_OPTIONS)
        except av.FFmpegError as error:
            refused = isinstance(error, av.InvalidDataError | av.ArgumentError)
            hint = ": it is another kind of file, or was cut off, as an mp4 is whose recording was interrupted"
            reason = f"{self.name} cannot be opened as a video ({error.strerror}){hint if refused else ''}"
            raise VideoError(reason) from error
        try:
            return Pass(container, self.name)
        except VideoError:
            container.close()
            raise


class MemoryVideo(FileVideo):
    """A video file's bytes.

    Args:
        data: what would be the file.
        name: for error messages.
        size: (width, height) that frames are cut to, as of a writer that made odd sides even; None for all of them.

    Raises VideoError as ``FileVideo``.
    """

    def __init__(self, data: bytes, name: str, size: tuple[int, int] | None = None):
        self._size: tuple[int, int] | None = None
        if not data:
            raise VideoError(f"{name} is empty (0 bytes)")
        self._look(data, name)
        self._size = size

    def frame_of(self, shown: Shown) -> Frame:
        frame = super().frame_of(shown)
        if self._size is None or self._size == (self.width, self.height):
            return frame
        return replace(frame, image=np.ascontiguousarray(frame.image[: self._size[1], : self._size[0]]))


def _time_table(reading: Pass) -> tuple[np.ndarray, np.ndarray] | None:
    if reading.stored_times:
        return None
    times: list[int] = []
    keys: list[int] = []
    latest = decoded = -math.inf
    for packet in reading.packets():
        if packet.pts is None:
            return None
        if packet.is_discard:
            continue
        # Frames before a key frame are shown before it, and decoded before whatever follows them: else the clock
        # jumps back, and the order of times is not that of showing.
        if packet.is_keyframe and packet.pts <= latest or packet.dts is not None and packet.dts < decoded:
            return None
        latest, decoded = max(latest, packet.pts), decoded if packet.dts is None else packet.dts
        times.append(packet.pts)
        if packet.is_keyframe:
            keys.append(packet.pts)
    if not keys:
        return None
    # What is shown before the first key frame needs frames that are not there, so no decoder gives it.
    first, end = keys[0], reading.sound_before
    shown = np.sort(np.asarray([t for t in times if t >= first and (end is None or t < end)], dtype=np.int64))
    if len(shown) == 0 or (np.diff(shown) == 0).any():
        return None
    return shown, np.asarray(np.searchsorted(shown, np.sort(keys)))


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise VideoError(f"{path} is a folder, not a video file")
    if not path.exists():
        parent = path.parent
        near = [inner.name for inner in parent.iterdir()] if parent.is_dir() else []
        where = "" if parent.is_dir() else f"; there is no folder {parent} either"
        raise VideoError(f"no file {path}{suggest(path.name, near)}{where}")
    if path.is_file() and path.stat().st_size == 0:
        raise VideoError(f"{path} is empty (0 bytes)")
