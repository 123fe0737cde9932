"""Pictures as a video: a folder of frames, or a list of picture files or arrays."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pam_kit.data.pictures import read_picture
from pam_kit.data.video.frames import PICTURE_RATE, Frame, StoredVideo, VideoError, check_pixels

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")


class PictureVideo(StoredVideo):
    """Pictures in a row, ``frame_rate`` of them a second; each is read when it is looked at.

    Args:
        pictures: paths of picture files, or (H, W, 3) uint8 RGB arrays, all of one size.
        name: for error messages.
        frame_rate: frames a second; pictures say nothing about time.

    Raises:
        VideoError: there is no picture, or what is listed is neither a path nor such an array.
        BrokenSample: a picture cannot be read, here the first one, in an iteration any other.
    """

    def __init__(self, pictures: Sequence[Path | str | np.ndarray], name: str, frame_rate: float = PICTURE_RATE):
        if len(pictures) == 0:
            raise VideoError(f"{name} holds no picture; a video of pictures needs at least one")
        self.name, self.frame_rate, self._pictures = name, frame_rate, pictures
        first = self._image(0)
        self.height, self.width = first.shape[:2]
        check_pixels(name, self.width, self.height)

    @property
    def num_frames(self) -> int:
        return len(self._pictures)

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        if not 0 <= start < self.num_frames:
            raise VideoError(f"{self.name} has no frame {start}; its frames are 0 to {self.num_frames - 1}")
        return self._frames(start, self.num_frames if stop is None else min(stop, self.num_frames))

    def _frames(self, start: int, stop: int) -> Iterator[Frame]:
        for index in range(start, stop):
            if self.closed:
                return
            image = self._image(index)
            self._check_size(image.shape[1], image.shape[0], index)
            yield Frame(image, index / (self.frame_rate or PICTURE_RATE), index)

    def _image(self, index: int) -> np.ndarray:
        picture = self._pictures[index]
        if isinstance(picture, str | Path):
            return read_picture(Path(picture), self.name)
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
            found = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
            raise VideoError(f"{self.name}: frame {index} must be a path or a (H, W, 3) uint8 array, not {found}")
        return picture


def folder_pictures(folder: Path) -> list[Path]:
    """The pictures in ``folder``, in the order of the numbers in their names. Raises VideoError where there is none."""
    found = [
        path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")
    ]
    if not found:
        raise VideoError(f"no picture in the folder {folder}; expected frames ({', '.join(PICTURE_SUFFIXES)})")
    return sorted(found, key=_by_number)


def _by_number(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Digits compare as numbers: frame_9 comes before frame_10."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(part), "") if part.isascii() and part.isdigit() else (-1, part) for part in parts], path.name
