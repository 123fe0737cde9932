"""Pictures without a region, or without all but the region: what a text is tested against."""

from typing import Literal

import numpy as np
from PIL import Image, ImageFilter

from pam_kit.errors import PamKitError
from pam_kit.geometry import tight_box

Fill = Literal["mean", "blur"]
FILLS = ("mean", "blur")
# box takes out a region's tight box, mask its own pixels. A filled mask still shows the outline of what was there, a
# wider one a rounder outline; a filled box shows no more than the box that a region is pointed at with.
Shape = Literal["box", "mask"]
SHAPES = ("box", "mask")
# Standard deviation of the blur, as a share of the picture's longer side.
BLUR_SHARE = 1 / 12


def altered(image: np.ndarray, where: np.ndarray, fill: Fill) -> np.ndarray:
    """A copy of an (H, W, 3) uint8 picture with the pixels of ``where`` (H, W) bool replaced.

    ``mean`` paints the average colour of the whole picture, ``blur`` the picture under a Gaussian of a twelfth of its
    longer side: that leaves colours about where they were, and takes away all else.
    """
    if where.shape != image.shape[:2] or where.dtype != bool:
        raise PamKitError(f"an area of {where.shape} {where.dtype} does not fit a picture of {image.shape[:2]}")
    found = image.copy()
    if fill == "mean":
        found[where] = image.reshape(-1, 3).mean(0).round().astype(np.uint8)
    elif fill == "blur":
        radius = max(image.shape[:2]) * BLUR_SHARE
        blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
        found[where] = blurred[where]
    else:
        raise PamKitError(f"fill {fill!r} is unknown; choose from {', '.join(FILLS)}")
    return found


def shaped(mask: np.ndarray, shape: Shape) -> np.ndarray:
    """The area of a region (H, W) bool: its tight box, or its mask as it is."""
    if shape == "mask":
        return mask
    if shape != "box":
        raise PamKitError(f"shape {shape!r} is unknown; choose from {', '.join(SHAPES)}")
    area, box = np.zeros_like(mask), tight_box(mask)
    if box is not None:
        x1, y1, x2, y2 = (int(value) for value in box)
        area[y1:y2, x1:x2] = True
    return area


def without_others(areas: list[np.ndarray], chosen: int) -> np.ndarray | None:
    """The largest other area, less what it shares with the chosen one; None where nothing is left of any.

    The largest object is the one that a model is most likely to talk about in the place of what was asked.
    """
    parts = [area & ~areas[chosen] for index, area in enumerate(areas) if index != chosen]
    largest = max(parts, key=np.count_nonzero, default=None)
    return largest if largest is not None and largest.any() else None
