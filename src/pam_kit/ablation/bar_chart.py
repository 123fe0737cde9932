"""Groups of bars with whiskers as a picture, drawn with Pillow alone, in the style of the line chart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pam_kit.inference.line_chart import GRID, LINE_COLOURS, round_step
from pam_kit.inference.panel import BACKGROUND, LABEL_COLOUR, TEXT_COLOUR

# Drawn so many times larger, then averaged.
_FINE = 3
_LEFT, _TOP, _RIGHT, _HEIGHT = 70, 104, 24, 300
_BAR, _GAP, _LINE = 26, 34, 16


@dataclass(frozen=True)
class Bar:
    """A height of 0 or more, and how far the whisker reaches from it, up and down."""

    height: float
    whisker: float


@dataclass(frozen=True)
class Group:
    """The bars of one name below the axis, one for each entry of the legend; None where there is none."""

    name: str
    bars: Sequence[Bar | None]


def draw_bars(path: str | Path, title: str, legend: Sequence[str], groups: Sequence[Group], y_label: str) -> None:
    """Groups side by side over a y axis from 0; written as the picture ``path``. Long names wrap below their group."""
    chart = _Chart(legend, groups)
    chart.frame(title, y_label, legend)
    for number, group in enumerate(groups):
        chart.group(number, group)
    chart.picture.resize(chart.size, Image.Resampling.BOX).save(path)


class _Chart:
    def __init__(self, legend: Sequence[str], groups: Sequence[Group]):
        self._width = max(len(legend) * _BAR + _GAP, 84)
        self._bars = len(legend)
        self._names = [_wrapped(group.name, self._width - 8) for group in groups]
        bottom = 18 + _LINE * max(map(len, self._names))
        plot = max(self._width * len(groups), 420)
        self._left = _LEFT + (plot - self._width * len(groups)) // 2
        self.size = (_LEFT + plot + _RIGHT, _TOP + _HEIGHT + bottom)
        self.picture = Image.new("RGB", (self.size[0] * _FINE, self.size[1] * _FINE), BACKGROUND)
        self._draw = ImageDraw.Draw(self.picture)
        tops = [bar.height + bar.whisker for group in groups for bar in group.bars if bar]
        self._step = round_step(max(tops, default=1.0))
        self._top = self._step * max(1, math.ceil(max(tops, default=1.0) / self._step))

    def frame(self, title: str, y_label: str, legend: Sequence[str]) -> None:
        """Title, legend, grid and numbers."""
        self._text((_LEFT, 20), title, 17, TEXT_COLOUR, "lm")
        self._text((_LEFT, 44), y_label, 13, LABEL_COLOUR, "lm")
        x = float(_LEFT)
        for number, name in enumerate(legend):
            self._box((x, 64, x + 14, 78), LINE_COLOURS[number % len(LINE_COLOURS)])
            self._text((x + 20, 71), name, 13, TEXT_COLOUR, "lm")
            x += 44 + _length(name, 13)
        for number in range(round(self._top / self._step) + 1):
            y = self._height(number * self._step)
            self._draw.line([(_LEFT * _FINE, y * _FINE), ((self.size[0] - _RIGHT) * _FINE, y * _FINE)], GRID, _FINE)
            self._text((_LEFT - 10, y), f"{number * self._step:g}", 13, LABEL_COLOUR, "rm")

    def group(self, number: int, group: Group) -> None:
        """The bars of a group, their whiskers, and its name."""
        middle = self._left + (number + 0.5) * self._width
        first = middle - self._bars * _BAR / 2
        for place, bar in enumerate(group.bars):
            if bar is None:
                continue
            left = first + place * _BAR
            colour = LINE_COLOURS[place % len(LINE_COLOURS)]
            self._box((left + 2, self._height(bar.height), left + _BAR - 2, self._height(0)), colour)
            self._whisker(left + _BAR / 2, bar)
        for line, text in enumerate(self._names[number]):
            self._text((middle, _TOP + _HEIGHT + 16 + line * _LINE), text, 13, TEXT_COLOUR, "mm")

    def _whisker(self, x: float, bar: Bar) -> None:
        if bar.whisker <= 0:
            return
        upper, lower = self._height(bar.height + bar.whisker), self._height(max(0.0, bar.height - bar.whisker))
        for one, other in (
            ((x, upper), (x, lower)),
            ((x - 5, upper), (x + 5, upper)),
            ((x - 5, lower), (x + 5, lower)),
        ):
            self._draw.line([(a * _FINE, b * _FINE) for a, b in (one, other)], TEXT_COLOUR, _FINE + _FINE // 2)

    def _height(self, value: float) -> float:
        return _TOP + (1 - value / self._top) * _HEIGHT

    def _box(self, box: tuple[float, float, float, float], colour: tuple[int, int, int]) -> None:
        self._draw.rectangle([edge * _FINE for edge in box], fill=colour)

    def _text(self, place: tuple[float, float], text: str, size: int, colour, anchor: str) -> None:
        font = ImageFont.load_default(size * _FINE)
        self._draw.text((place[0] * _FINE, place[1] * _FINE), text, font=font, fill=colour, anchor=anchor)


def _length(text: str, size: int) -> float:
    return ImageFont.load_default(size).getlength(text)


def _wrapped(text: str, width: float) -> list[str]:
    """Lines of whole words, as few as fit."""
    lines: list[str] = []
    for word in text.replace("_", " ").split():
        if lines and _length(f"{lines[-1]} {word}", 13) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]
