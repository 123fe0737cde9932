"""From what a user names to the source of frames it stands for."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pam_kit.data.video.files import FileVideo
from pam_kit.data.video.forward import RawVideo, open_address, open_camera
from pam_kit.data.video.frames import PICTURE_RATE, VideoError, VideoSource
from pam_kit.data.video.listed import PICTURE_SUFFIXES, PictureVideo, folder_pictures

# Two letters at least: C:\ is a drive, not a scheme.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:")
_CAMERA = re.compile(r"camera:(\d+)|(/dev/video\d+)")


def open_video(
    source: str | Path | int | Sequence[str | Path | np.ndarray],
    size: tuple[int, int] | None = None,
    frame_rate: float | None = None,
) -> VideoSource:
    """Open a source of frames and look at its first one.

    Args:
        source: a video file; a folder of pictures, in the order of the numbers in their names; a list of paths of
            pictures or of (H, W, 3) uint8 RGB arrays; a camera's number, "camera:0" or "/dev/video0"; an address
            (http, https, rtsp, rtmp, udp, srt, tcp); "-" for raw RGB24 frames on standard input.
        size: (width, height) of raw frames, where it is needed, or asked of a camera.
        frame_rate: frames a second of pictures and raw frames, 30 by default, or asked of a camera. Files and
            addresses come with times of their own.

    Raises:
        VideoError: there is nothing of that kind, it holds no frame, it cannot be decoded, or a rate is given that
            it has no use for.
        BrokenSample: the first picture of a folder or list cannot be read.
    """
    _check_numbers(size, frame_rate)
    if isinstance(source, int):
        return open_camera(f"/dev/video{source}", size, frame_rate)
    if isinstance(source, str | Path):
        return _open_named(source, size, frame_rate)
    return PictureVideo(source, f"a list of {len(source)} pictures", frame_rate or PICTURE_RATE)


def _open_named(source: str | Path, size: tuple[int, int] | None, frame_rate: float | None) -> VideoSource:
    name, path = str(source), Path(source)
    if name == "-":
        if size is None:
            raise VideoError("raw frames on standard input need their size; give it with --size, for example 640x480")
        return RawVideo(size, frame_rate or PICTURE_RATE, name="standard input")
    if camera := _CAMERA.fullmatch(name):
        return open_camera(camera[2] or f"/dev/video{camera[1]}", size, frame_rate)
    if path.is_dir():
        return PictureVideo(folder_pictures(path), name, frame_rate or PICTURE_RATE)
    if name.isascii() and name.isdigit() and not path.exists():
        return open_camera(f"/dev/video{name}", size, frame_rate)
    if isinstance(source, str) and _SCHEME.match(name) and not path.exists():
        return open_address(_own_times(name, frame_rate))
    if path.suffix.lower() in PICTURE_SUFFIXES and path.suffix.lower() != ".gif":
        raise VideoError(f"{name} is a picture; a video is a video file, a folder of pictures or a list of them")
    return FileVideo(_own_times(source, frame_rate))


def _own_times(source, frame_rate: float | None):
    if frame_rate is not None:
        raise VideoError(
            f"{source} comes with times of its own, so a frame rate (--rate) of {frame_rate:g} has no use; "
            "it is for folders and lists of pictures, raw frames and cameras"
        )
    return source


def _check_numbers(size: tuple[int, int] | None, frame_rate: float | None) -> None:
    if size is not None and (len(size) != 2 or not all(type(side) is int and side > 0 for side in size)):
        raise VideoError(f"size must be (width, height) in pixels, not {size!r}")
    if frame_rate is not None and not 0 < frame_rate < float("inf"):
        raise VideoError(f"frame_rate must be a number of frames a second above 0, not {frame_rate!r}")
