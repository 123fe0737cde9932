"""Pictures in whatever form they are given."""

from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pam_kit.errors import PamKitError

Picture: TypeAlias = str | Path | Image.Image | np.ndarray


def as_array(image: Picture) -> np.ndarray:
    """A picture file (turned as its EXIF data says), PIL picture or array -> (H, W, 3) uint8 RGB."""
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise PamKitError(f"a picture array must be (H, W, 3) uint8 RGB, not {image.shape} {image.dtype}")
        return image
    if isinstance(image, Image.Image):
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    try:
        with Image.open(image) as opened:
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    except FileNotFoundError:
        raise PamKitError(f"no picture at {image}") from None
    except (UnidentifiedImageError, OSError) as error:
        raise PamKitError(f"{image} cannot be read as a picture: {error}") from error
