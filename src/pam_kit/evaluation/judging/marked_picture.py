"""The picture that a judge of MDVP-Bench sees: darkened, with its marks in green and their numbers on black."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, UnidentifiedImageError

from pam_kit.errors import PamKitError
from pam_kit.inference import marks

# As the benchmark draws them: brightness under boxes and under points, line width, colour.
_UNDER_BOXES, _UNDER_POINTS = 0.8, 0.7
_LINE = 2
_GREEN = (0, 255, 0)
_JPEG_QUALITY = 95


def marked_picture(path: Path, prompts: Mapping[int, Mapping[str, Any]]) -> bytes:
    """A JPEG of the picture with each prompt drawn beside its number.

    Args:
        path: of the picture.
        prompts: number -> prompt as records have it, in pixels: a ``box`` (x1, y1, x2, y2) or ``points`` [(x, y)].

    Raises:
        PamKitError: the picture cannot be read, or a prompt is neither.
    """
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise PamKitError(f"{path} cannot be shown to the judge: {error}") from None
    share = _UNDER_BOXES if any(prompt.get("box") for prompt in prompts.values()) else _UNDER_POINTS
    picture = picture.point(lambda value: round(value * share))
    draw = ImageDraw.Draw(picture)
    side = max(picture.size)
    radius, height = max(4, side // 120), max(20, side // 32)
    corners = {number: _draw_prompt(draw, prompt, radius, path) for number, prompt in prompts.items()}
    dots = [point for prompt in prompts.values() if not prompt.get("box") for point in prompt["points"]]
    taken = [marks.occupied((x, y), (2 * radius, 2 * radius)) for x, y in dots]
    for number, (x, y) in corners.items():
        tag = marks.badge(str(number), marks.BLACK, height)
        centre = marks.free_spot((x + tag.width / 2, y + tag.height / 2), tag.size, picture.size, taken, None)
        marks.stamp(picture, tag, centre)
        taken.append(marks.occupied(centre, tag.size))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=_JPEG_QUALITY)
    return content.getvalue()


def data_url(jpeg: bytes) -> str:
    """The picture as an address that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _draw_prompt(draw: ImageDraw.ImageDraw, prompt: Mapping[str, Any], radius: int, path: Path) -> tuple[float, float]:
    """Draws it; returns where the top left corner of its number goes."""
    if box := prompt.get("box"):
        x1, y1, x2, y2 = box
        # A box ends before x2 and y2, a drawn rectangle with its last pixel.
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=_GREEN, width=_LINE)
        return x1, y1
    if not (points := prompt.get("points")):
        raise PamKitError(f"{path.name}: a mark for the judge is a box or points, not {sorted(prompt) or 'nothing'}")
    for x, y in points:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_GREEN)
    return points[0][0] + radius, points[0][1] + radius
