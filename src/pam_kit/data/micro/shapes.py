"""The silhouettes of the micro dataset's object kinds, as signed distances.

A silhouette lies inside the unit circle, x to the right and y down; its distance is positive inside. Silhouettes are
put together from discs and polygons: union is the maximum, difference the minimum with the negated distance. That is
exact on the outline, which is all that masks need.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

# The field is stored on GRID x GRID points over [-EXTENT, EXTENT], finer than any object is drawn at 512 pixels.
GRID, EXTENT = 257, 1.15

Field = np.ndarray
Point = tuple[float, float]


def _disc(x: Field, y: Field, cx: float, cy: float, radius: float) -> Field:
    return radius - np.hypot(x - cx, y - cy)


def _polygon(x: Field, y: Field, points: Sequence[Point]) -> Field:
    """Distance to the nearest edge; the sign by the even-odd rule."""
    squared = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (x1, y1), (x2, y2) in zip(points, (*points[1:], points[0]), strict=True):
        ex, ey = x2 - x1, y2 - y1
        share = np.clip(((x - x1) * ex + (y - y1) * ey) / (ex * ex + ey * ey), 0, 1)
        squared = np.minimum(squared, (x - x1 - share * ex) ** 2 + (y - y1 - share * ey) ** 2)
        if y1 != y2:
            inside ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) * ex / ey)
    return np.where(inside, 1, -1) * np.sqrt(squared)


def _bar(x: Field, y: Field, left: float, top: float, right: float, bottom: float) -> Field:
    return _polygon(x, y, [(left, top), (right, top), (right, bottom), (left, bottom)])


def _ellipse(x: Field, y: Field, cx: float, cy: float, rx: float, ry: float) -> Field:
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return _polygon(x, y, list(zip(cx + rx * np.cos(angles), cy + ry * np.sin(angles), strict=True)))


def _union(*fields: Field) -> Field:
    return np.maximum.reduce(fields)


def _cut(field: Field, *holes: Field) -> Field:
    return np.minimum.reduce([field, *(-hole for hole in holes)])


def _ball(x: Field, y: Field) -> Field:
    return _disc(x, y, 0, 0, 0.9)


def _box(x: Field, y: Field) -> Field:
    return _bar(x, y, -0.89, -0.44, 0.89, 0.44)


def _tent(x: Field, y: Field) -> Field:
    door = _polygon(x, y, [(0, -0.2), (0.3, 0.7), (-0.3, 0.7)])
    return _cut(_polygon(x, y, [(0, -0.97), (0.84, 0.5), (-0.84, 0.5)]), door)


def _star(x: Field, y: Field) -> Field:
    angles = np.pi * np.arange(10) / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2, 0.4, 1.0)
    return _polygon(x, y, list(zip(radii * np.cos(angles), radii * np.sin(angles), strict=True)))


def _ring(x: Field, y: Field) -> Field:
    return _cut(_disc(x, y, 0, 0, 0.92), _disc(x, y, 0, 0, 0.5))


def _heart(x: Field, y: Field) -> Field:
    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    outline_x = 0.9 * np.sin(t) ** 3
    outline_y = -0.052 * (13 * np.cos(t) - 6.5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) - 0.1
    return _polygon(x, y, list(zip(outline_x, outline_y, strict=True)))


def _cross(x: Field, y: Field) -> Field:
    return _union(_bar(x, y, -0.92, -0.28, 0.92, 0.28), _bar(x, y, -0.28, -0.92, 0.28, 0.92))


def _moon(x: Field, y: Field) -> Field:
    return _cut(_disc(x, y, 0, 0, 0.95), _disc(x, y, 0.45, -0.15, 0.72))


def _arrow(x: Field, y: Field) -> Field:
    half = [(-0.95, -0.22), (0.05, -0.22), (0.05, -0.72), (0.97, 0)]
    return _polygon(x, y, [*half, (0.05, 0.72), (0.05, 0.22), (-0.95, 0.22)])


def _fish(x: Field, y: Field) -> Field:
    tail = _polygon(x, y, [(0.1, 0), (0.8, -0.58), (0.62, 0), (0.8, 0.58)])
    return _cut(_union(_ellipse(x, y, -0.3, 0, 0.66, 0.46), tail), _disc(x, y, -0.62, -0.1, 0.12))


def _tree(x: Field, y: Field) -> Field:
    tiers = [(0, -0.98), (0.42, -0.4), (0.22, -0.4), (0.6, 0.12), (0.32, 0.12), (0.74, 0.6)]
    trunk = [(0.16, 0.6), (0.16, 0.95)]
    right = tiers + trunk
    return _polygon(x, y, right + [(-px, py) for px, py in reversed(right[1:])])


def _key(x: Field, y: Field) -> Field:
    bow = _cut(_disc(x, y, -0.5, 0, 0.48), _disc(x, y, -0.5, 0, 0.2))
    teeth = [_bar(x, y, 0.3, 0, 0.5, 0.46), _bar(x, y, 0.68, 0, 0.88, 0.42)]
    return _union(bow, _bar(x, y, -0.1, -0.14, 0.96, 0.14), *teeth)


def _cup(x: Field, y: Field) -> Field:
    body = _polygon(x, y, [(-0.66, -0.72), (0.3, -0.72), (0.2, 0.8), (-0.56, 0.8)])
    handle = _cut(_disc(x, y, 0.42, 0, 0.52), _disc(x, y, 0.42, 0, 0.26))
    return _union(body, handle)


def _mushroom(x: Field, y: Field) -> Field:
    cap = np.minimum(_disc(x, y, 0, 0.05, 0.95), _bar(x, y, -1, -1, 1, 0.0))
    return _union(cap, _bar(x, y, -0.28, -0.1, 0.28, 0.9))


_SILHOUETTES: dict[str, Callable[[Field, Field], Field]] = {
    "ball": _ball,
    "box": _box,
    "tent": _tent,
    "star": _star,
    "ring": _ring,
    "heart": _heart,
    "cross": _cross,
    "moon": _moon,
    "arrow": _arrow,
    "fish": _fish,
    "tree": _tree,
    "key": _key,
    "cup": _cup,
    "mushroom": _mushroom,
}
KINDS = tuple(_SILHOUETTES)


@cache
def _field(kind: str) -> Field:
    """Flattened (GRID * GRID,) float32 distances of a silhouette, drawn once a process."""
    axis = np.linspace(-EXTENT, EXTENT, GRID)
    return _SILHOUETTES[kind](*np.meshgrid(axis, axis)).astype(np.float32).ravel()


def signed_distance(kind: str, x: Field, y: Field) -> Field:
    """Distance of points from the outline of ``kind``, positive inside, in units of the silhouette; bilinear.

    Args:
        x: coordinates of any shape; points outside the stored square take the value at its edge.
        y: of the same shape.
    """
    field, scale = _field(kind), (GRID - 1) / (2 * EXTENT)
    gx, gy = (np.minimum(np.maximum((axis + EXTENT) * scale, 0), GRID - 1.001) for axis in (x, y))
    column, row = gx.astype(np.intp), gy.astype(np.intp)
    fx, fy, corner = gx - column.astype(gx.dtype), gy - row.astype(gy.dtype), row * GRID + column
    top: np.ndarray = field.take(corner)
    bottom: np.ndarray = field.take(corner + GRID)
    top += fx * (field.take(corner + 1) - top)
    bottom += fx * (field.take(corner + GRID + 1) - bottom)
    return top + fy * (bottom - top)
