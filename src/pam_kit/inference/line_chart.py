"""A plain line chart as a picture, drawn with Pillow alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pam_kit.inference.marks import PALETTE
from pam_kit.inference.panel import BACKGROUND, LABEL_COLOUR, TEXT_COLOUR

# Drawn so many times larger, then averaged.
_FINE = 3
_SIZE, _MARGINS = (880, 480), (86, 74, 24, 62)  # left, top, right, bottom
GRID = (228, 229, 232)
# Blue, orange, green ...: strong on white.
LINE_COLOURS = (PALETTE[5], PALETTE[4], PALETTE[2], PALETTE[6])


@dataclass(frozen=True)
class Line:
    """``values`` over the chart's x, and what they are."""

    name: str
    values: Sequence[float]


def draw_chart(
    path: str | Path, title: str, x: Sequence[float], lines: Sequence[Line], x_label: str, y_label: str
) -> None:
    """Lines over ``x``, ascending, with the y axis from 0; written as the picture ``path``."""
    chart = _Chart(x, max(value for line in lines for value in line.values))
    chart.frame(title, x_label, y_label)
    for number, line in enumerate(lines):
        chart.line(line, LINE_COLOURS[number % len(LINE_COLOURS)], number)
    chart.picture.resize(_SIZE, Image.Resampling.BOX).save(path)


class _Chart:
    def __init__(self, x: Sequence[float], top: float):
        self.picture = Image.new("RGB", (_SIZE[0] * _FINE, _SIZE[1] * _FINE), BACKGROUND)
        self._draw = ImageDraw.Draw(self.picture)
        self._x, self._step = x, round_step(top)
        self._top = self._step * max(1, math.ceil(top / self._step))

    def frame(self, title: str, x_label: str, y_label: str) -> None:
        """Title, grid, numbers and labels."""
        left, top, right, bottom = _MARGINS
        self._text((left, 22), title, 17, TEXT_COLOUR, "lm")
        for number in range(round(self._top / self._step) + 1):
            value = number * self._step
            y = self._place(self._x[0], value)[1]
            self._draw.line((left * _FINE, y, (_SIZE[0] - right) * _FINE, y), fill=GRID, width=_FINE)
            self._text((left - 10, y / _FINE), f"{value:g}", 13, LABEL_COLOUR, "rm")
        for value in self._x:
            self._text((self._place(value, 0)[0] / _FINE, _SIZE[1] - bottom + 16), f"{value:g}", 13, LABEL_COLOUR, "mm")
        self._text(((left + _SIZE[0] - right) / 2, _SIZE[1] - 18), x_label, 14, TEXT_COLOUR, "mm")
        self._text((14, top - 20), y_label, 14, TEXT_COLOUR, "lm")

    def line(self, line: Line, colour: tuple[int, int, int], number: int) -> None:
        """The line with its points, and its name in the legend."""
        places = [self._place(x, y) for x, y in zip(self._x, line.values, strict=True)]
        self._draw.line(places, fill=colour, width=3 * _FINE, joint="curve")
        radius = 5 * _FINE
        for x, y in places:
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=BACKGROUND)
        x, y = _MARGINS[0] + 18, _MARGINS[1] + 16 + 24 * number
        self._draw.line((x * _FINE, y * _FINE, (x + 26) * _FINE, y * _FINE), fill=colour, width=3 * _FINE)
        self._text((x + 36, y), line.name, 14, TEXT_COLOUR, "lm")

    def _place(self, x: float, y: float) -> tuple[float, float]:
        left, top, right, bottom = _MARGINS
        width, height = _SIZE[0] - left - right - 40, _SIZE[1] - top - bottom
        share = (x - self._x[0]) / max(self._x[-1] - self._x[0], 1e-9)
        return (left + 20 + share * width) * _FINE, (top + (1 - y / self._top) * height) * _FINE

    def _text(
        self, place: tuple[float, float], text: str, size: int, colour: tuple[int, int, int], anchor: str
    ) -> None:
        font = ImageFont.load_default(size * _FINE)
        self._draw.text((place[0] * _FINE, place[1] * _FINE), text, font=font, fill=colour, anchor=anchor)


def round_step(top: float) -> float:
    """1, 2 or 5 times a power of ten, so that about five steps reach ``top``."""
    rough = max(top, 1e-9) / 5
    power = 10 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
