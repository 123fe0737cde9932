"""Tiny videos made on the spot, by PyAV alone."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest


def noise(index: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


@pytest.fixture
def make_video(tmp_path):
    """``make_video(name, ...)`` -> the path of a video of noise: H.264, 10 frames a second, key frames 12 apart.

    ``ticks``: when each frame is shown, in ``clock`` ticks a second. ``first``: the number of the first noise.
    """

    def make(
        name: str = "clip.mp4",
        count: int = 40,
        size=(64, 48),
        ticks=None,
        b_frames: int = 2,
        open_gop: bool = False,
        rotation: int = 0,
        clock: int = 1000,
        first: int = 0,
        **muxer,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w", options=muxer) as container:
            # Noise makes a poor video: left to itself the encoder would take key frames alone.
            choices = f"keyint=12:bframes={b_frames}:b-adapt=0:scenecut=0:open-gop={int(open_gop)}"
            options = {"x264-params": choices}
            stream = container.add_stream("libx264", rate=10, options=options)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            stream.codec_context.time_base = Fraction(1, clock)
            if rotation:
                stream.set_display_rotation(rotation)
            for i in range(count):
                frame = av.VideoFrame.from_ndarray(noise(first + i, size), format="rgb24")
                frame.pts, frame.time_base = (ticks[i] if ticks else clock // 10 * i), Fraction(1, clock)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make


@pytest.fixture
def make_joined(make_video, tmp_path):
    """``make_joined(suffix, ...)`` -> the path of two videos of 15 and 17 frames, one behind the other in one file.

    ``start``: of the second one's clock, in seconds.
    """

    def make(suffix: str, start: float = 0.0, **kind) -> Path:
        one = make_video(f"one{suffix}", count=15, **kind)
        ticks = [round(1000 * start) + 100 * i for i in range(17)]
        other = make_video(f"other{suffix}", count=17, ticks=ticks, first=100, **kind)
        path = tmp_path / f"joined{suffix}"
        path.write_bytes(one.read_bytes() + other.read_bytes())
        return path

    return make


@pytest.fixture
def plainly():
    """``plainly(path)`` -> (image, seconds) of every frame, decoded from the start by PyAV alone."""

    def decode(path: Path) -> list[tuple[np.ndarray, float]]:
        with av.open(str(path)) as container:
            frames = container.decode(video=0)
            found = [(f.to_ndarray(format="rgb24"), float((f.pts or 0) * f.time_base)) for f in frames]
        return [(image, seconds - found[0][1]) for image, seconds in found]

    return decode
