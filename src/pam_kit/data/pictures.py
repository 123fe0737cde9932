"""Picture files to (H, W, 3) uint8 arrays: upright, RGB, complete, or a BrokenSample that says why not."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pam_kit.errors import BrokenSample

# Pillow's own limit against decompression bombs, held even where a program has switched Pillow's off.
MAX_PIXELS = 89_478_485
# What Pillow raises on damaged files, by format: truncated JPEG, broken PNG chunks, damaged EXIF and TIFF tags.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error)


def read_picture(path: Path, source: str) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned upright as its EXIF orientation asks. Transparency is dropped.

    Raises BrokenSample for a file that is missing, empty, damaged, too large or of more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            _check_readable(image, path, source)
            return np.array(_as_rgb(ImageOps.exif_transpose(image)))
    except FileNotFoundError as error:
        raise BrokenSample(source, f"the picture '{path}' does not exist") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenSample(source, f"the picture '{path}' is too large: {error}") from error
    except UnidentifiedImageError as error:
        what = "is not a picture" if path.stat().st_size else "is empty (0 bytes)"
        raise BrokenSample(source, f"the file '{path}' {what}") from error
    except _DAMAGE as error:
        raise BrokenSample(source, f"the picture '{path}' cannot be read: {error}") from error


def _check_readable(image: Image.Image, path: Path, source: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        raise BrokenSample(source, f"the picture '{path}' is too large: {size} pixels, at most {MAX_PIXELS} are read")
    if image.mode[0] in "IF":
        # Pillow's conversion would clip everything above 255 to white.
        raise BrokenSample(source, f"the picture '{path}' has mode {image.mode}; convert it to 8 bits a channel")


def _as_rgb(image: Image.Image) -> Image.Image:
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
