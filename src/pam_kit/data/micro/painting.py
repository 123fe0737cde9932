"""How an object of the micro dataset looks: its colours, surface pattern, shading and outline."""

from dataclasses import dataclass

import numpy as np

from pam_kit.data.micro.shapes import signed_distance

# Body colour and the accent of the same hue that draws the pattern, RGB; darkened, the darker one draws the outline.
PALETTE: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "red": ((222, 32, 38), (110, 6, 14)),
    "orange": ((255, 138, 0), (150, 66, 0)),
    "yellow": ((250, 222, 40), (150, 118, 0)),
    "green": ((40, 170, 60), (6, 75, 22)),
    "cyan": ((45, 210, 220), (0, 98, 112)),
    "blue": ((35, 80, 230), (4, 18, 100)),
    "purple": ((145, 50, 195), (58, 5, 90)),
    "pink": ((255, 145, 195), (200, 80, 140)),
    "white": ((245, 245, 245), (128, 128, 136)),
    "black": ((28, 28, 32), (120, 120, 128)),
}
COLOURS = tuple(PALETTE)
TEXTURES = ("plain", "striped", "dotted", "checked")
# Diameter of the circle around an object, as a share of the image side.
SIZES = {"small": 0.2, "medium": 0.3, "large": 0.45}

# Period of stripes and dots, side of a check: shares of the image side on a medium object. They grow with the root of
# an object's size, so that a small one still shows several periods. The width of the outline is the same on all.
_STRIPE, _DOT, _CHECK, _OUTLINE = 0.055, 0.058, 0.047, 0.009
_OUTLINE_SHADE = 0.75


@dataclass(frozen=True)
class Raster:
    """A silhouette on pixels: a square of odd side whose middle pixel is the object's centre.

    ``distance`` (n, n) float32 is positive inside and in pixels; ``u``, ``v`` (n, n) float32 are pixels along the
    object's own axes.
    """

    distance: np.ndarray
    u: np.ndarray
    v: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        return self.distance > 0

    @property
    def reach(self) -> int:
        """Pixels from the middle to the edge of the square."""
        return len(self.distance) // 2


def rasterize(kind: str, diameter: float, rotation: float) -> Raster:
    """Draw the outline of ``kind``; ``diameter`` in pixels, ``rotation`` in radians, clockwise on the screen."""
    reach = int(np.ceil(diameter / 2)) + 1
    axis: np.ndarray = np.arange(-reach, reach + 1, dtype=np.float32)
    cos, sin = np.float32(np.cos(rotation)), np.float32(np.sin(rotation))
    u = cos * axis[None, :] + sin * axis[:, None]
    v = cos * axis[:, None] - sin * axis[None, :]
    radius = np.float32(diameter / 2)
    return Raster(signed_distance(kind, u / radius, v / radius) * radius, u, v)


def _pattern(texture: str, raster: Raster, side: int) -> np.ndarray | None:
    """Signed pixels into the accent-coloured part of the surface, or None where there is none."""
    u, v = raster.u, raster.v
    scale = side * np.sqrt(2 * raster.reach / (SIZES["medium"] * side), dtype=np.float32)
    if texture == "striped":
        period = _STRIPE * scale
        return period * (0.25 - np.abs((v / period) % 1 - 0.5))
    if texture == "dotted":
        period = _DOT * scale
        row = np.floor(v / period)
        du = ((u / period + row / 2) % 1 - 0.5) * period
        return 0.3 * period - np.hypot(du, (v / period - row - 0.5) * period)
    if texture == "checked":
        cell = _CHECK * scale
        du, dv = (0.5 - np.abs((axis / cell) % 2 - 1) for axis in (u, v))
        return np.sign(du * dv) * np.minimum(np.abs(du), np.abs(dv)) * cell
    return None


def paint(window: np.ndarray, raster: Raster, colour: str, texture: str, light: float, side: int) -> None:
    """Draw an object over ``window`` (3, n, n) float32, in place.

    Args:
        light: direction that the light comes from, in radians.
        side: of the whole image, in pixels; it scales pattern and outline.
    """
    body, accent = (np.asarray(c, np.float32)[:, None, None] for c in PALETTE[colour])
    surface: np.ndarray = body
    pattern = _pattern(texture, raster, side)
    if pattern is not None:
        surface = body + np.clip(pattern + 0.5, 0, 1) * (accent - body)
    slope = (raster.u * np.float32(np.cos(light)) + raster.v * np.float32(np.sin(light))) / raster.reach
    surface = surface * (1 + 0.14 * slope)
    outline = np.clip(_OUTLINE * side + 0.5 - raster.distance, 0, 1)
    surface += outline * (_OUTLINE_SHADE * np.minimum(body, accent) - surface)
    coverage = np.clip(raster.distance + 0.5, 0, 1)
    window += coverage * (np.minimum(surface, 255) - window)
