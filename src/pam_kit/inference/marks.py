"""Small signs on a picture: numbered badges, clicked points, dashed boxes and outlines; and free spots for them.

All sizes and places are in pixels of the picture drawn on.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pam_kit.geometry import eroded

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]

# The eight colours of Okabe and Ito (2008) without black; told apart with each kind of colour blindness.
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
    (204, 121, 167),
)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
POSITIVE, NEGATIVE = (22, 163, 74), (220, 38, 38)
# Signs with round or slanted edges are drawn this many times larger, then averaged.
_SUPERSAMPLING = 4


def region_colour(index: int) -> Colour:
    """The colour of a picture's region; colours come again after seven, the numbers do not."""
    return PALETTE[index % len(PALETTE)]


@cache
def badge(text: str, colour: Colour, height: int) -> Image.Image:
    """A round RGBA sign with ``text`` on ``colour``, wider than ``height`` only where the text is."""
    fine = height * _SUPERSAMPLING
    ring = max(_SUPERSAMPLING, fine // 14)
    font = ImageFont.load_default(round(fine * 0.58))
    width = max(fine, round(font.getlength(text) + fine * 0.5))
    sign = Image.new("RGBA", (width, fine))
    draw = ImageDraw.Draw(sign)
    draw.rounded_rectangle((0, 0, width - 1, fine - 1), fine // 2, fill=(*BLACK, 150))
    inset = ring // 2
    draw.rounded_rectangle((inset, inset, width - 1 - inset, fine - 1 - inset), fine // 2, fill=WHITE)
    inset += ring
    draw.rounded_rectangle((inset, inset, width - 1 - inset, fine - 1 - inset), fine // 2, fill=colour)
    ink = BLACK if _luminance(colour) > 100 else WHITE
    draw.text((width / 2, fine / 2), text, font=font, fill=ink, anchor="mm", stroke_width=fine / 90)
    return sign.resize((-(-width // _SUPERSAMPLING), height), Image.Resampling.BOX)


@cache
def point_sign(positive: bool, size: int) -> Image.Image:
    """A green plus (inside the object) or a red minus (outside it) with a white rim, RGBA, ``size`` pixels square."""
    fine = size * _SUPERSAMPLING
    sign = Image.new("RGBA", (fine, fine))
    draw = ImageDraw.Draw(sign)
    for inset, colour in ((0, (*BLACK, 150)), (0.035, WHITE), (0.12, POSITIVE if positive else NEGATIVE)):
        margin, half = inset * fine, (0.24 - inset) * fine
        bars = [(margin, fine / 2 - half, fine - margin, fine / 2 + half)]
        if positive:
            bars.append((fine / 2 - half, margin, fine / 2 + half, fine - margin))
        for bar in bars:
            draw.rounded_rectangle(bar, fine // 25, fill=colour)
    return sign.resize((size, size), Image.Resampling.BOX)


def stamp(canvas: Image.Image, sign: Image.Image, centre: tuple[float, float]) -> None:
    """Put an RGBA sign on ``canvas``, moved where it would stick out."""
    left, top = (round(centre[i] - sign.size[i] / 2) for i in (0, 1))
    left, top = (max(0, min(v, canvas.size[i] - sign.size[i])) for i, v in enumerate((left, top)))
    canvas.paste(sign, (left, top), sign)


def draw_dashed_box(canvas: Image.Image, box: tuple[float, ...], colour: Colour, line: int) -> None:
    """The outline of ``box``, ``line`` pixels wide, in dashes of ``colour`` and white."""
    x1, y1, x2, y2 = (round(v) for v in box)
    x1, y1 = min(x1, canvas.width - 1), min(y1, canvas.height - 1)
    x2, y2 = max(x1 + 1, x2), max(y1 + 1, y2)
    across = np.ones((min(line, y2 - y1), x2 - x1), dtype=bool)
    down = np.ones((y2 - y1, min(line, x2 - x1)), dtype=bool)
    for strip, corner in (
        (across, (x1, y1)),
        (across, (x1, y2 - len(across))),
        (down, (x1, y1)),
        (down, (x2 - down.shape[1], y1)),
    ):
        _paste_dashes(canvas, strip, corner, colour, line)


def draw_dashed_outline(canvas: Image.Image, mask: np.ndarray, box: Box, colour: Colour, line: int) -> None:
    """The inner edge of ``mask`` (H, W), whose tight box is ``box``, in dashes of ``colour`` and white."""
    crop = mask[box[1] : box[3], box[0] : box[2]]
    _paste_dashes(canvas, crop & ~_core(crop, line), box[:2], colour, line)


def draw_outline(canvas: Image.Image, mask: np.ndarray, box: Box, colour: Colour, line: int, rim: int) -> None:
    """The inner edge of ``mask`` (H, W), whose tight box is ``box``: ``line`` pixels of ``colour``, then ``rim`` white
    ones, so that it stands out from any background."""
    crop = mask[box[1] : box[3], box[0] : box[2]]
    core = _core(crop, line)
    canvas.paste(colour, box[:2], Image.fromarray(crop & ~core))
    canvas.paste(WHITE, box[:2], Image.fromarray(core & ~_core(core, rim)))


def _core(mask: np.ndarray, steps: int) -> np.ndarray:
    for _ in range(steps):
        mask = eroded(mask)
    return mask


def _paste_dashes(canvas: Image.Image, ring: np.ndarray, corner: tuple[int, int], colour: Colour, line: int) -> None:
    rows, columns = np.ogrid[: ring.shape[0], : ring.shape[1]]
    dash = (rows + columns) // (line * 4) % 2 == 0
    canvas.paste(WHITE, corner, Image.fromarray(ring & ~dash))
    canvas.paste(colour, corner, Image.fromarray(ring & dash))


def free_spot(
    wanted: tuple[float, float],
    size: tuple[int, int],
    canvas: tuple[int, int],
    taken: list[Box],
    area: np.ndarray | None,
) -> tuple[float, float]:
    """Where to centre a sign of ``size`` near ``wanted``: on the canvas, over no box of ``taken``, if possible inside
    ``area``, a boolean (H, W) array of the canvas; ``wanted`` itself where everything near is taken."""
    free = [spot for spot in _spots(wanted, size) if _fits(spot, size, canvas, taken)]
    inside = [(x, y) for x, y in free if area is None or area[int(y), int(x)]]
    return (inside or free or [wanted])[0]


def occupied(centre: tuple[float, float], size: tuple[int, int]) -> Box:
    """The pixels (x1, y1, x2, y2) under a sign."""
    left, top = (round(centre[i] - size[i] / 2) for i in (0, 1))
    return left, top, left + size[0], top + size[1]


def _spots(wanted: tuple[float, float], size: tuple[int, int]) -> Iterator[tuple[float, float]]:
    yield wanted
    for ring in (1, 2, 3):
        for dx, dy in ((0, -1), (1, 0), (-1, 0), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1)):
            yield wanted[0] + dx * ring * size[0], wanted[1] + dy * ring * size[1]


def _fits(spot: tuple[float, float], size: tuple[int, int], canvas: tuple[int, int], taken: list[Box]) -> bool:
    x1, y1, x2, y2 = occupied(spot, size)
    if x1 < 0 or y1 < 0 or x2 > canvas[0] or y2 > canvas[1]:
        return False
    return all(x2 <= other[0] or other[2] <= x1 or y2 <= other[1] or other[3] <= y1 for other in taken)


def _luminance(colour: Colour) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
