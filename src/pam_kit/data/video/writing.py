"""Pictures to an mp4 file that appears whole or not at all, and whose draft can be watched while it grows."""

import math
import os
from contextlib import suppress
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Self
from uuid import uuid4

import av
import numpy as np

from pam_kit.atomic_files import DRAFT
from pam_kit.data.video.frames import VideoError, check_pixels

# The first of these that the build of FFmpeg has. The last is MPEG-4 part 2, which every build has.
ENCODERS = ("libx264", "libopenh264", "mpeg4")
# Ticks a second: whole for 24, 25, 30, 50, 60 and 30000/1001 frames a second; MPEG-4 part 2 knows at most 65535.
CLOCK = 60_000
_KEY_FRAME_EVERY = 48
# Fragments while it is written, so that the draft of a killed run can be played; an ordinary file once it is closed.
# The index that it then gets is kept in memory: about 80 bytes a frame.
_WHOLE = "hybrid_fragmented+frag_keyframe"
# Fragments for good: what is in the file is forgotten.
_ENDLESS = "empty_moov+frag_keyframe+default_base_moof+skip_trailer"


class Mp4Encoder:
    """Pictures into an mp4, to a file or to memory. ``VideoWriter`` is what writes files safely.

    Args:
        target: a path, or something to write to and seek in.
        frame_rate: frames a second, for frames without a time of their own.
        size: (width, height) of the pictures. An odd side becomes even: the last row or column is repeated once.
        quality: 0 to 51, smaller is better and larger; H.264's constant rate factor.
        endless: keep nothing that grows with the frames; see ``VideoWriter``. For paths.

    Attributes:
        encoder: the name of FFmpeg's encoder in use.
        frames: how many were written.
    """

    def __init__(
        self,
        target: str | BytesIO,
        frame_rate: float,
        size: tuple[int, int],
        quality: int = 18,
        endless: bool = False,
    ):
        check_pixels("the video to write", *size)
        if not 0 < frame_rate <= CLOCK:
            raise VideoError(f"frame_rate must be above 0 and at most {CLOCK}, not {frame_rate!r}")
        if not 0 <= quality <= 51:
            raise VideoError(f"quality must be 0 (best) to 51, not {quality!r}")
        self.frame_rate, self.size, self.frames = frame_rate, size, 0
        self._last_tick, self._last_time = -1, 0.0
        self.encoder = next(name for name in ENCODERS if name in av.codecs_available)
        # Each fragment goes to the file at once, not when a buffer is full.
        growing = {"movflags": _ENDLESS if endless else _WHOLE, "flush_packets": "1"}
        self._container = av.open(target, "w", format="mp4", options=growing if isinstance(target, str) else {})
        self._stream = self._add_stream(quality)

    def write(self, image: np.ndarray, time: float | None = None) -> None:
        """One picture (H, W, 3) uint8 RGB, shown from ``time`` on, in seconds; by default behind the last one.

        Pictures of one time, as cameras give them, follow each other by a tick of 1/60000 s, since an mp4 cannot hold
        them otherwise. Raises VideoError for another size, and for a time ahead of that of the picture before.
        """
        if image.dtype != np.uint8 or image.shape != (self.size[1], self.size[0], 3):
            expected = f"({self.size[1]}, {self.size[0]}, 3)"
            raise VideoError(f"a frame to write is {image.dtype} {image.shape}; expected uint8 {expected}")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(_even(image)), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU601", dst_color_range="MPEG")
        frame.pts, frame.time_base = self._tick(time), Fraction(1, CLOCK)
        frame.duration = round(CLOCK / self.frame_rate)
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def finish(self) -> None:
        """Write what the encoder still holds, and the file's index."""
        try:
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()

    def abandon(self) -> None:
        """Close what is open; what was written is of no use."""
        with suppress(av.FFmpegError):
            self._container.close()

    def _add_stream(self, quality: int):
        width, height = (side + side % 2 for side in self.size)
        # No B-frames: the first frame is shown at 0, and the draft lacks no frame that is already written.
        options = {"bf": "0", "g": str(_KEY_FRAME_EVERY)}
        options |= {"crf": str(quality)} if self.encoder == "libx264" else {"qmin": "2", "qmax": str(max(2, quality))}
        rate = Fraction(self.frame_rate).limit_denominator(1001)
        stream = self._container.add_stream(self.encoder, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, CLOCK)
        return stream

    def _tick(self, time: float | None) -> int:
        if time is None:
            time = max(self.frames / self.frame_rate, self._last_time)
        if not (math.isfinite(time) and time >= self._last_time):
            raise VideoError(f"frame {self.frames} at {time} s does not come at {self._last_time:.6f} s or later")
        self._last_time = time
        self._last_tick = max(round(time * CLOCK), self._last_tick + 1)
        return self._last_tick


class VideoWriter:
    """Pictures to the mp4 file ``path``: H.264 where the build of FFmpeg can, at the frames' own times.

    The file gets its name when the writer is closed, in the place of any former one; until then it is hidden beside it
    (``.NAME-....part``), and after an error it is removed. The draft that a killed run leaves can be played up to its
    last key frame. A context manager; missing folders are made.

    Args:
        path: ends in .mp4.
        frame_rate: frames a second, of frames without a time of their own.
        size: (width, height). An odd side becomes even: the last row or column is repeated once.
        quality: 0 to 51, smaller is better and larger (H.264's constant rate factor).
        endless: for a stream of unknown length: the memory in use does not grow with the frames. The file stays in
            fragments, which players and this kit read like any other; otherwise it gets one index when it is closed,
            for which about 80 bytes a frame are kept.

    Attributes:
        encoder: the name of FFmpeg's encoder in use.
        frames: how many were written.

    Raises VideoError for such a name, rate or size, for a file that cannot be written (then the writer is closed), and
    on closing where no frame was written.
    """

    def __init__(
        self,
        path: str | Path,
        frame_rate: float,
        size: tuple[int, int],
        quality: int = 18,
        endless: bool = False,
    ):
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise VideoError(f"videos are written as mp4; {path} does not end in .mp4")
        self._draft = self.path.with_name(f".{self.path.name}-{uuid4().hex[:8]}{DRAFT}")
        self._open = True
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._encoding = Mp4Encoder(f"file:{self._draft.absolute()}", frame_rate, size, quality, endless)
        except (av.FFmpegError, OSError) as error:
            with suppress(OSError):
                self._draft.unlink()
            raise self._refusal(error) from error

    @property
    def encoder(self) -> str:
        return self._encoding.encoder

    @property
    def frames(self) -> int:
        return self._encoding.frames

    def write(self, image: np.ndarray, time: float | None = None) -> None:
        """One picture (H, W, 3) uint8 RGB, shown from ``time`` on, in seconds; by default behind the last one."""
        if not self._open:
            raise VideoError(f"{self.path} is closed; nothing more can be written to it")
        try:
            self._encoding.write(image, time)
        except av.FFmpegError as error:
            raise self._given_up(error) from error

    def close(self) -> None:
        """Give the file its name. Nothing happens where that was done before."""
        if not self._open:
            return
        if not self.frames:
            self.abandon()
            raise VideoError(f"no frame was written to {self.path}, so there is no such file")
        try:
            self._open = False
            self._encoding.finish()
            os.replace(self._draft, self.path)
        except (av.FFmpegError, OSError) as error:
            raise self._given_up(error) from error

    def abandon(self) -> None:
        """Remove what was written so far; a former file of that name stays."""
        self._open = False
        self._encoding.abandon()
        self._draft.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self.close()
        elif self._open:
            self.abandon()

    def _given_up(self, error: "av.FFmpegError | OSError") -> VideoError:
        """What to raise; nothing is left of what was written, and closing does nothing any more."""
        with suppress(OSError):
            self.abandon()
        return self._refusal(error)

    def _refusal(self, error: "av.FFmpegError | OSError") -> VideoError:
        return VideoError(f"cannot write {self.path}: {error.strerror or error}")


def _even(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return image
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
