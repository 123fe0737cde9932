"""Pictures of predictions: tinted masks, the prompts, numbered marks and a legend with the texts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from pam_kit.contracts import RegionPrompt
from pam_kit.errors import PamKitError
from pam_kit.geometry import mask_iou
from pam_kit.inference import marks
from pam_kit.inference.layers import Sizes, paint_numbers, paint_regions, pixel_box, resized_mask, scaled_layers
from pam_kit.inference.panel import BACKGROUND, Entry, draw_panel
from pam_kit.inference.result import RegionPrediction

# Pictures with a shorter long side are enlarged by a whole factor, for text and marks to be legible.
MIN_SIDE = 512
# The long side of a picture in a contact sheet.
TILE_SIDE = 512
TILE_TEXT = 18
TINT = 0.34
# Lighter in evaluation pictures: colours are part of the texts that are compared.
TILE_TINT = 0.2
_MAX_SIDE_COLUMNS = 3


def draw_regions(
    image: np.ndarray,
    predictions: Sequence[RegionPrediction],
    languages: Sequence[str] = ("en",),
    prompts: bool = True,
) -> Image.Image:
    """A picture with its predicted regions and, beside or below it, a legend with their texts.

    Each region has a tinted mask with an outline, its prompt (dashed box, dashed outline of a prompt mask, green plus
    or red minus for points) and a number. Where masks overlap, the smaller one is on top. Pixels under no mask, prompt
    or number keep their values; pictures below 512 pixels are enlarged (bicubic), their masks with them. Regions with
    an error are counted and left out.

    Args:
        image: (H, W, 3) uint8, RGB.
        predictions: regions of that picture; without any, the picture comes back without a legend.
        languages: whose texts the legend shows, in this order.
        prompts: also draw how the regions were pointed at.

    Raises:
        PamKitError: the picture is no RGB array, or a mask or prompt does not fit it.
    """
    _check(image, predictions)
    if not prompts:
        predictions = [replace(one, prompt=RegionPrompt()) for one in predictions]
    factor = -(-MIN_SIDE // max(image.shape[:2]))
    canvas, layers = scaled_layers(image, predictions, factor)
    sizes = Sizes.of(canvas)
    paint_regions(canvas, layers, sizes, TINT)
    signs = paint_numbers(canvas, layers, sizes)
    entries = [
        Entry(sign, _scores(prediction), _text_rows(prediction, languages))
        for sign, prediction in zip(signs, [one for one in predictions if one.error is None], strict=True)
    ]
    return _with_legend(canvas, entries, sizes.text) if entries else canvas


def draw_task_example(
    image: np.ndarray,
    truth_mask: np.ndarray | None,
    prediction: RegionPrediction,
    task: str,
    expected: Mapping[str, str],
) -> Image.Image:
    """One evaluated region: its prompt, the predicted mask (tinted), the true one (black and white dashes) and, below,
    the predicted and the expected text of each language.

    Args:
        image: (H, W, 3) uint8, RGB. It is drawn with a long side of 512 pixels.
        truth_mask: (H, W) boolean, or None where it is not known.
        prediction: what the model said.
        task: the key of ``prediction.texts`` to show.
        expected: language -> the dataset's text.

    Raises:
        PamKitError: the picture is no RGB array, or a mask or prompt does not fit it.
    """
    _check(image, [prediction])
    if truth_mask is not None:
        _check_mask(image, truth_mask)
    scale = TILE_SIDE / max(image.shape[:2])
    canvas, layers = scaled_layers(image, [prediction], scale)
    sizes = Sizes.of(canvas)
    paint_regions(canvas, layers, sizes, TILE_TINT)
    facts = f"{task}: {_scores(prediction)}"
    if truth_mask is not None:
        truth = resized_mask(truth_mask, canvas.size)
        if truth.any():
            marks.draw_dashed_outline(canvas, truth, pixel_box(truth), marks.BLACK, sizes.thin)
        facts += f", IoU with dashed truth {mask_iou(prediction.mask, truth_mask):.2f}"
    rows = []
    for language, text in expected.items():
        answer = prediction.texts.get(task, {}).get(language)
        rows += [("predicted", _shown(answer.text) if answer else "(not asked)"), ("expected", _shown(text))]
    panel = draw_panel([Entry(None, facts, tuple(rows))], TILE_SIDE, TILE_TEXT)
    return _stacked(_centred(canvas, TILE_SIDE), panel)


def draw_contact_sheet(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures in rows of ``columns`` on white, each at the top left of its cell; none is resized.

    Raises:
        PamKitError: there are no tiles, or ``columns`` is below 1.
    """
    if not tiles or columns < 1:
        raise PamKitError(f"a contact sheet needs a tile and a column; got {len(tiles)} tiles, {columns} columns")
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    gap = max(8, tiles[0].width // 40)
    widths = [max(tile.width for tile in tiles[c::columns]) for c in range(min(columns, len(tiles)))]
    heights = [max(tile.height for tile in row) for row in rows]
    sheet = Image.new("RGB", (sum(widths) + gap * (len(widths) + 1), sum(heights) + gap * (len(rows) + 1)), BACKGROUND)
    for r, row in enumerate(rows):
        for c, tile in enumerate(row):
            sheet.paste(tile, (gap * (c + 1) + sum(widths[:c]), gap * (r + 1) + sum(heights[:r])))
    return sheet


def _check(image: np.ndarray, predictions: Sequence[RegionPrediction]) -> None:
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        given = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise PamKitError(f"the picture to draw on must be an (H, W, 3) uint8 RGB array, not {given}")
    if not image.size:
        raise PamKitError(f"the picture to draw on is empty: {image.shape[1]}x{image.shape[0]} pixels")
    for prediction in predictions:
        if prediction.error is not None:
            continue
        _check_mask(image, prediction.mask)
        prediction.prompt.check(width=image.shape[1], height=image.shape[0])


def _check_mask(image: np.ndarray, mask: np.ndarray) -> None:
    if mask.dtype != bool:
        raise PamKitError(f"a mask to draw must be boolean, not {mask.dtype}")
    if mask.shape != image.shape[:2]:
        raise PamKitError(
            f"a mask is {'x'.join(map(str, mask.shape[::-1]))} pixels, the picture {image.shape[1]}x{image.shape[0]}; "
            "draw masks on the picture that they belong to"
        )


def _with_legend(canvas: Image.Image, entries: list[Entry], text_size: int) -> Image.Image:
    """Below a picture that is clearly wider than high, else on its right, in columns where it is long."""
    column = 24 * text_size
    if canvas.width > 1.2 * canvas.height:
        columns = min(len(entries), max(1, canvas.width // column))
        return _stacked(canvas, draw_panel(entries, canvas.width, text_size, columns))
    for columns in range(1, _MAX_SIDE_COLUMNS + 1):
        panel = draw_panel(entries, column * columns, text_size, columns)
        if panel.height <= canvas.height:
            break
    joined = Image.new("RGB", (canvas.width + panel.width, max(canvas.height, panel.height)), BACKGROUND)
    joined.paste(canvas, (0, 0))
    joined.paste(panel, (canvas.width, 0))
    return joined


def _stacked(upper: Image.Image, lower: Image.Image) -> Image.Image:
    joined = Image.new("RGB", (max(upper.width, lower.width), upper.height + lower.height), BACKGROUND)
    joined.paste(upper, (0, 0))
    joined.paste(lower, (0, upper.height))
    return joined


def _centred(picture: Image.Image, width: int) -> Image.Image:
    frame = Image.new("RGB", (width, picture.height), BACKGROUND)
    frame.paste(picture, ((width - picture.width) // 2, 0))
    return frame


def _scores(prediction: RegionPrediction) -> str:
    mask = f"predicted IoU {prediction.iou:.2f}" if prediction.mask.any() else "empty mask"
    return f"{mask}, object {prediction.object_score:.2f}"


def _text_rows(prediction: RegionPrediction, languages: Sequence[str]) -> tuple[tuple[str, str], ...]:
    rows = []
    for task, answers in prediction.texts.items():
        shown = [_shown(answers[language].text) for language in languages if language in answers]
        rows += [(task if i == 0 else "", text) for i, text in enumerate(shown)]
    return tuple(rows)


def _shown(text: str) -> str:
    return text if text.strip() else "(empty)"
