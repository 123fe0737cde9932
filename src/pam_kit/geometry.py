"""Boxes, erosion and inner points of boolean masks. At the bottom of the house: every room may import it."""

from collections.abc import Sequence

import numpy as np

_COARSE_SIDE = 96


def mask_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The tight box (x1, y1, x2, y2) of a non-empty (H, W) mask; x2 and y2 lie behind the last pixel."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def tight_box(mask: np.ndarray) -> tuple[float, float, float, float] | None:
    """``mask_box`` of an (H, W) boolean mask that may be empty: None then."""
    return mask_box(mask) if mask.any() else None


def mask_iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boolean (H, W) masks; 1 where both are empty."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0


def box_iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2) that are not empty."""
    width, height = (max(0.0, min(one[i + 2], other[i + 2]) - max(one[i], other[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


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

    A mask of more than 96 pixels a side is eroded on a copy of that size, so its point may be a few pixels off.
    """
    x1, y1, x2, y2 = (int(v) for v in mask_box(mask))
    step = max(1.0, max(x2 - x1, y2 - y1) / _COARSE_SIDE)
    columns, rows = _sampled(x1, x2, step), _sampled(y1, y2, step)
    coarse = mask[np.ix_(rows, columns)]
    if not coarse.any():
        columns, rows = np.arange(x1, x2), np.arange(y1, y2)
        coarse = mask[y1:y2, x1:x2]
    inner_rows, inner_columns = np.nonzero(_deepest(coarse))
    distance = (inner_rows - inner_rows.mean()) ** 2 + (inner_columns - inner_columns.mean()) ** 2
    middle = np.argmin(distance)
    return float(columns[inner_columns[middle]]) + 0.5, float(rows[inner_rows[middle]]) + 0.5


def _sampled(start: int, stop: int, step: float) -> np.ndarray:
    """Whole numbers from ``start`` to below ``stop``, about ``step`` apart and evenly spread; at least one."""
    count = max(1, round((stop - start) / step))
    return start + ((np.arange(count) + 0.5) * (stop - start) / count).astype(int)


def _deepest(mask: np.ndarray) -> np.ndarray:
    while (smaller := eroded(mask)).any():
        mask = smaller
    return mask
