"""Groups of horizontal bars as a picture, drawn with Pillow."""

from collections.abc import Mapping
from pathlib import Path

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3")
LABEL, LENGTH, HEIGHT, MARGIN = 140, 480, 18, 16


def draw_bars(groups: Mapping[str, Mapping[str, float]], to: Path, title: str) -> None:
    """A bar for each value, its length relative to the largest of its group.

    Args:
        groups: heading -> label -> value.
        to: the PNG file.
        title: what the values are.
    """
    from PIL import Image, ImageDraw

    lines = sum(len(bars) + 2 for bars in groups.values()) + 2
    picture = Image.new("RGB", (LABEL + LENGTH + 6 * MARGIN, lines * HEIGHT + 2 * MARGIN), "white")
    draw, y = ImageDraw.Draw(picture), MARGIN
    draw.text((MARGIN, y), title, fill="black")
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    for heading, bars in groups.items():
        y += 2 * HEIGHT
        draw.text((MARGIN, y), heading, fill="black")
        for name, value in bars.items():
            y += HEIGHT
            length = LENGTH * value / (max(bars.values()) or 1)
            draw.text((MARGIN, y), name, fill="black")
            colour = COLOURS[names.index(name) % len(COLOURS)]
            draw.rectangle((LABEL, y + 2, LABEL + max(1, round(length)), y + HEIGHT - 4), fill=colour)
            draw.text((LABEL + length + 6, y), f"{value:.4g}", fill="black")
    picture.save(to)
