"""Boxes, erosion and inner points of boolean masks. At the bottom of the house: every room may import it."""

import numpy as np
from PIL import Image

_COARSE_SIDE = 96


def mask_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The tight box (x1, y1, x2, y2) of a non-empty (H, W) mask; x2 and y2 lie behind the last pixel."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def eroded(mask: np.ndarray) -> np.ndarray:
    """The (H, W) mask without the pixels that have an unset neighbour above, below, left or right.

    What lies outside the array counts as unset.
    """
    core = mask.copy()
    core[1:] &= mask[:-1]
    core[:-1] &= mask[1:]
    core[:, 1:] &= mask[:, :-1]
    core[:, :-1] &= mask[:, 1:]
    core[[0, -1]], core[:, [0, -1]] = False, False
    return core


def innermost_point(mask: np.ndarray) -> tuple[float, float]:
    """The middle (x, y) of the pixel that lies deepest inside a non-empty (H, W) mask, by repeated erosion.

    Masks of more than 96 pixels a side are eroded on a coarse copy, so the point is deepest only to within its pixels.
    """
    height, width = mask.shape
    x1, y1, x2, y2 = (int(v) for v in mask_box(mask))
    crop = mask[y1:y2, x1:x2]
    scale = max(1.0, max(crop.shape) / _COARSE_SIDE)
    if scale > 1:
        size = (max(1, round(crop.shape[1] / scale)), max(1, round(crop.shape[0] / scale)))
        coarse = np.asarray(Image.fromarray(crop).resize(size, Image.Resampling.NEAREST), dtype=bool)
        crop = coarse if coarse.any() else crop
    rows, columns = np.nonzero(_deepest(crop))
    middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    x = x1 + (columns[middle] + 0.5) * (x2 - x1) / crop.shape[1]
    y = y1 + (rows[middle] + 0.5) * (y2 - y1) / crop.shape[0]
    return float(min(x, width - 0.5)), float(min(y, height - 0.5))


def _deepest(mask: np.ndarray) -> np.ndarray:
    while (smaller := eroded(mask)).any():
        mask = smaller
    return mask
