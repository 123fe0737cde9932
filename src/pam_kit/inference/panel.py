"""The legend beside or below a picture: numbered entries with labelled, wrapped texts."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from pam_kit.inference.lettering import legible, wrapped

BACKGROUND = (255, 255, 255)
TEXT_COLOUR, LABEL_COLOUR = (28, 28, 30), (110, 112, 118)


@dataclass(frozen=True)
class Entry:
    """What the legend says about one region.

    Args:
        badge: the RGBA sign that marks the region in the picture, or None.
        title: one line of facts, or an empty string.
        rows: (label, text) each; an empty label continues the one above.
    """

    badge: Image.Image | None
    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Run:
    """One line of text at (x, y) from the entry's corner."""

    x: int
    y: int
    text: str
    font: ImageFont.FreeTypeFont
    colour: tuple[int, int, int]


def draw_panel(entries: Sequence[Entry], width: int, text_size: int, columns: int = 1) -> Image.Image:
    """Entries in reading order, column after column, on a white panel as high as they need.

    Args:
        width: of the panel, in pixels.
        text_size: height of the letters' square, in pixels.
    """
    margin = text_size
    column_width = (width - margin * (columns + 1)) // columns
    indents = _badge_width(entries, text_size), _label_width(entries, text_size)
    laid_out = [_lay_out(entry, column_width, text_size, *indents) for entry in entries]
    places, height = _places([height for _, height in laid_out], columns, text_size)
    panel = Image.new("RGB", (width, height + 2 * margin), BACKGROUND)
    draw = ImageDraw.Draw(panel)
    for entry, (runs, _), (column, top) in zip(entries, laid_out, places, strict=True):
        left = margin + column * (column_width + margin)
        if entry.badge is not None:
            panel.paste(entry.badge, (left, margin + top), entry.badge)
        for run in runs:
            draw.text((left + run.x, margin + top + run.y), run.text, font=run.font, fill=run.colour, anchor="ls")
    return panel


def _lay_out(entry: Entry, width: int, size: int, indent: int, label_width: int) -> tuple[list[_Run], int]:
    """The entry's lines and its height. Baselines stand on a grid, so fonts of different height mix."""
    leading = round(size * 1.35)
    runs, y = [], 0
    for line, font in _lines(entry.title, _small(size), width - indent) if entry.title else ():
        runs.append(_Run(indent, y + size, line, font, LABEL_COLOUR))
        y += leading
    for label, text in entry.rows:
        if label:
            shown, font = legible(label, _small(size))
            runs.append(_Run(indent, y + size, shown, font, LABEL_COLOUR))
        for line, font in _lines(text, size, width - indent - label_width):
            runs.append(_Run(indent + label_width, y + size, line, font, TEXT_COLOUR))
            y += leading
    return runs, max(y, entry.badge.height if entry.badge else 0)


def _lines(text: str, size: int, width: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    shown, font = legible(text, size)
    return [(line, font) for line in wrapped(shown, font, width)]


def _small(size: int) -> int:
    return max(10, round(size * 0.85))


def _badge_width(entries: Sequence[Entry], size: int) -> int:
    return max((entry.badge.width + size // 2 for entry in entries if entry.badge), default=0)


def _label_width(entries: Sequence[Entry], size: int) -> int:
    labels = {label for entry in entries for label, _ in entry.rows if label}
    widths = [legible(label, _small(size))[1].getlength(label) for label in labels]
    return round(max(widths, default=0)) + round(size * 0.7)


def _places(heights: list[int], columns: int, text_size: int) -> tuple[list[tuple[int, int]], int]:
    """(column, top) of each entry and the height of the highest column. A column is left when its share is reached."""
    gap = text_size
    total = sum(heights) + gap * len(heights)
    places, tops, seen = [], [0] * columns, 0
    for height in heights:
        column = min(columns - 1, int(columns * (seen + (height + gap) / 2) / total))
        places.append((column, tops[column]))
        tops[column] += height + gap
        seen += height + gap
    return places, max(0, max(tops) - gap)
