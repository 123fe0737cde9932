"""Where the pictures, frames and videos of a benchmark lie, and how large they are. Torch-free."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from pam_kit.errors import BrokenSample

PICTURES = (".jpg", ".jpeg", ".png", ".JPG")
# Orientations in which width and height change places.
_TURNED = (5, 6, 7, 8)


def find_media(root: Path, places: Sequence[str], name: str, source: str) -> str:
    """The path, relative to ``root``, of the file or folder ``name`` in the first of ``places`` that has it.

    A place may be a pattern, such as ``video/*``.

    Raises BrokenSample where it is in none, or leads out of ``root``.
    """
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise BrokenSample(source, f"{name!r} is not a name below the benchmark's folder")
    for place in _folders(root, tuple(places)):
        if (root / place / name).exists():
            return (Path(place) / name).as_posix()
    raise BrokenSample(source, f"{name} is not in {root} below {' or '.join(places)}")


@lru_cache(maxsize=16)
def _folders(root: Path, places: tuple[str, ...]) -> tuple[str, ...]:
    found: list[str] = []
    for place in places:
        matching = sorted(root.glob(place)) if "*" in place else []
        found += [folder.relative_to(root).as_posix() for folder in matching if folder.is_dir()]
        found += [] if "*" in place else [place]
    return tuple(found)


@lru_cache(maxsize=4096)
def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of an upright picture, from its head alone. Raises BrokenSample where it is none."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED
            return (image.height, image.width) if turned else (image.width, image.height)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise BrokenSample(path.name, f"not a picture: {error}") from None


def frame_names(folder: Path, source: str) -> list[str]:
    """The names of the pictures in a folder of frames, in order. Raises BrokenSample where there are none."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in PICTURES) if folder.is_dir() else []
    if not names:
        raise BrokenSample(source, f"no frames in {folder}")
    return names
