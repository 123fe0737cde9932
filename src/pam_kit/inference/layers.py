"""Predicted regions painted onto a picture: tints, outlines, prompts and numbers, without any legend."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from pam_kit.contracts import POSITIVE_POINT, RegionPrompt
from pam_kit.geometry import innermost_point, mask_box
from pam_kit.inference import marks
from pam_kit.inference.marks import Box, Colour
from pam_kit.inference.result import RegionPrediction

# A mask of fewer pixels than this many signs would be hidden by the sign, which then stands above it.
_SIGNS_IN_MASK = 4


@dataclass(frozen=True)
class Sizes:
    """What suits a picture's size, in pixels: the letters' height, the side of numbers and clicked points, the width
    of outlines and of dashes."""

    text: int
    sign: int
    line: int
    thin: int

    @classmethod
    def of(cls, canvas: Image.Image) -> "Sizes":
        """For a picture of the size at which it is drawn."""
        side = max(canvas.size)
        text = min(26, max(14, round(side / 64)))
        return cls(text, round(text * 1.5), max(2, round(side / 480)), max(1, round(side / 800)))


@dataclass
class Layer:
    """A region in pixels of the canvas. ``box`` is the mask's, all 0 for an empty mask; ``visible`` is the part of
    the mask inside ``box`` that no smaller mask covers."""

    number: int
    colour: Colour
    mask: np.ndarray
    box: Box
    prompt: RegionPrompt
    visible: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))

    @property
    def crop(self) -> np.ndarray:
        x1, y1, x2, y2 = self.box
        return self.mask[y1:y2, x1:x2]


def scaled_layers(
    image: np.ndarray, predictions: Sequence[RegionPrediction], scale: float
) -> tuple[Image.Image, list[Layer]]:
    """A (H, W, 3) uint8 picture and its regions, ``scale`` times as large; at 1 the picture's pixels are kept."""
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    original = Image.fromarray(image)
    canvas = original.copy() if size == original.size else original.resize(size, Image.Resampling.BICUBIC)
    # Numbers count the regions that could not be answered, of which there is nothing to draw.
    numbered = [(number, one) for number, one in enumerate(predictions, 1) if one.error is None]
    layers = [region_layer(number, one.mask, one.prompt, scale, size) for number, one in numbered]
    return canvas, layers


def region_layer(number: int, mask: np.ndarray, prompt: RegionPrompt, scale: float, size: tuple[int, int]) -> Layer:
    """A region's (H, W) mask and prompt, ``scale`` times as large, on a canvas of ``size`` = (width, height).

    Its colour goes by its number, counted from 1.
    """
    mask = resized_mask(mask, size)
    box = pixel_box(mask) if mask.any() else (0, 0, 0, 0)
    return Layer(number, marks.region_colour(number - 1), mask, box, _resized_prompt(prompt, scale, size))


def resized_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A boolean (H, W) mask at ``size`` = (width, height): pixels of which more than half is covered; where there is
    none, those that are touched."""
    if mask.shape == size[::-1]:
        return mask
    covered = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR))
    return covered > 127 if (covered > 127).any() else covered > 0


def _resized_prompt(prompt: RegionPrompt, scale: float, size: tuple[int, int]) -> RegionPrompt:
    box = prompt.box
    return replace(
        prompt,
        box=None if box is None else (box[0] * scale, box[1] * scale, box[2] * scale, box[3] * scale),
        points=tuple((x * scale, y * scale) for x, y in prompt.points),
        mask=None if prompt.mask is None else resized_mask(prompt.mask, size),
    )


def pixel_box(mask: np.ndarray) -> Box:
    """The tight box of a non-empty mask as whole numbers."""
    x1, y1, x2, y2 = mask_box(mask)
    return int(x1), int(y1), int(x2), int(y2)


def paint_regions(canvas: Image.Image, layers: list[Layer], sizes: Sizes, tint: float) -> None:
    """Tints of ``tint`` in [0, 1], then outlines, then prompts: what is finer lies on top, and smaller masks too."""
    filled = sorted((layer for layer in layers if any(layer.box)), key=lambda layer: -int(layer.mask.sum()))
    _find_visible(filled, canvas.size)
    for layer in filled:
        alpha = Image.fromarray(layer.visible.astype(np.uint8) * round(255 * tint))
        canvas.paste(layer.colour, layer.box[:2], alpha)
    for layer in filled:
        marks.draw_outline(canvas, layer.mask, layer.box, layer.colour, sizes.line, sizes.thin)
    for layer in layers:
        _paint_prompt(canvas, layer, sizes)


def _find_visible(filled: list[Layer], size: tuple[int, int]) -> None:
    owner = np.zeros(size[::-1], dtype=np.uint16)
    crops = [owner[layer.box[1] : layer.box[3], layer.box[0] : layer.box[2]] for layer in filled]
    for layer, crop in zip(filled, crops, strict=True):
        crop[layer.crop] = layer.number
    for layer, crop in zip(filled, crops, strict=True):
        layer.visible = crop == layer.number


def _paint_prompt(canvas: Image.Image, layer: Layer, sizes: Sizes) -> None:
    prompt = layer.prompt
    if prompt.mask is not None and prompt.mask.any():
        marks.draw_dashed_outline(canvas, prompt.mask, pixel_box(prompt.mask), layer.colour, sizes.thin)
    if prompt.box is not None:
        marks.draw_dashed_box(canvas, prompt.box, layer.colour, sizes.thin)
    for point, label in zip(prompt.points, prompt.labels, strict=True):
        marks.stamp(canvas, marks.point_sign(label == POSITIVE_POINT, sizes.sign), point)


def paint_numbers(canvas: Image.Image, layers: list[Layer], sizes: Sizes) -> list[Image.Image]:
    """Number every region, off the clicked points and off each other; the signs, for the legend."""
    point = (sizes.sign, sizes.sign)
    taken = [marks.occupied(spot, point) for layer in layers for spot in layer.prompt.points]
    signs = [marks.badge(str(layer.number), layer.colour, sizes.sign) for layer in layers]
    for layer, sign in zip(layers, signs, strict=True):
        wanted, area = _wanted_spot(layer, sign)
        spot = marks.free_spot(wanted, sign.size, canvas.size, taken, area)
        taken.append(marks.occupied(spot, sign.size))
        marks.stamp(canvas, sign, spot)
    return signs


def _wanted_spot(layer: Layer, sign: Image.Image) -> tuple[tuple[float, float], np.ndarray | None]:
    """The innermost point of the mask's visible part; above a mask that the sign would hide; at the prompt where there
    is no mask. And the mask where the sign should stay inside it."""
    if not any(layer.box):
        return _prompt_spot(layer.prompt), None
    x1, y1, x2, y2 = layer.box
    if layer.mask.sum() < _SIGNS_IN_MASK * sign.width * sign.height:
        above = y1 - sign.height * 0.6
        return ((x1 + x2) / 2, above if above > sign.height / 2 else y2 + sign.height * 0.6), None
    x, y = innermost_point(layer.visible if layer.visible.any() else layer.crop)
    return (x1 + x, y1 + y), layer.mask


def _prompt_spot(prompt: RegionPrompt) -> tuple[float, float]:
    if prompt.box is not None:
        return (prompt.box[0] + prompt.box[2]) / 2, (prompt.box[1] + prompt.box[3]) / 2
    if prompt.points or prompt.mask is None:
        return prompt.points[0]
    return innermost_point(prompt.mask)
