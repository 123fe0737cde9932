import numpy as np
import pytest
from PIL import Image

from pam_kit.contracts import GeneratedText, RegionPrompt
from pam_kit.errors import PamKitError
from pam_kit.geometry import mask_box
from pam_kit.inference import marks
from pam_kit.inference.overlay import TILE_SIDE, TINT, draw_contact_sheet, draw_regions, draw_task_example
from pam_kit.inference.panel import BACKGROUND, Entry, draw_panel
from pam_kit.inference.result import RegionPrediction

HEIGHT, WIDTH = 520, 640


def noise(height=HEIGHT, width=WIDTH):
    """No pixel is near white, black or a colour of the palette, so every drawn pixel differs from it."""
    return np.random.default_rng(0).integers(100, 140, (height, width, 3), dtype=np.uint8)


def rectangle(x1, y1, x2, y2, height=HEIGHT, width=WIDTH):
    mask = np.zeros((height, width), dtype=bool)
    mask[y1:y2, x1:x2] = True
    return mask


def ellipse(x, y, rx, ry, height=HEIGHT, width=WIDTH):
    rows, columns = np.ogrid[:height, :width]
    return ((columns - x) / rx) ** 2 + ((rows - y) / ry) ** 2 <= 1


def predicted(mask, prompt=None, **texts):
    if prompt is None:
        prompt = RegionPrompt(mask=mask) if mask.any() else RegionPrompt(box=(10, 10, 60, 60))
    answers = {task: {"en": GeneratedText(text, 0.9)} for task, text in texts.items()}
    return RegionPrediction(prompt, mask, 0.9, 0.8, answers)


def drawn(image, predictions):
    """The picture's part of the result, without the legend."""
    return np.asarray(draw_regions(image, predictions))[: image.shape[0], : image.shape[1]]


def changed(image, predictions):
    return (drawn(image, predictions) != image).any(axis=2)


@pytest.mark.parametrize(
    "mask", [ellipse(300, 260, 150, 90), rectangle(0, 0, 90, 80), rectangle(600, 300, 640, 520)], ids=str
)
def test_pixels_outside_the_mask_keep_their_values_and_all_inside_change(mask):
    image = noise()
    before = image.copy()
    np.testing.assert_array_equal(changed(image, [predicted(mask)]), mask)
    np.testing.assert_array_equal(image, before)


def test_inside_of_the_mask_is_mixed_with_the_regions_colour():
    image, mask = noise(), rectangle(100, 100, 500, 400)
    result = drawn(image, [predicted(mask)]).astype(float)
    expected = image + TINT * (np.array(marks.PALETTE[0]) - image)
    corner = np.s_[115:150, 115:180]
    assert np.abs(result[corner] - expected[corner]).max() <= 2


def test_smaller_masks_lie_on_top_in_any_order():
    image, large, small = noise(), rectangle(50, 50, 600, 500), rectangle(300, 200, 500, 400)
    for order in ((large, small), (small, large)):
        result = drawn(image, [predicted(mask) for mask in order]).astype(float)
        colour = marks.PALETTE[[mask is small for mask in order].index(True)]
        expected = image + TINT * (np.array(colour) - image)
        corner = np.s_[215:240, 315:370]
        assert np.abs(result[corner] - expected[corner]).max() <= 2


def test_outline_is_the_colour_on_the_masks_outermost_pixels():
    mask = ellipse(300, 260, 150, 90)
    result = drawn(noise(), [predicted(mask, RegionPrompt(points=((300.0, 260.0),), labels=(1,)))])
    shifted = [np.roll(mask, shift, axis) for axis in (0, 1) for shift in (-1, 1)]
    rim = mask & ~np.logical_and.reduce(shifted)
    assert (result[rim] == marks.PALETTE[0]).all()


def test_a_box_prompt_is_dashes_of_colour_and_white_on_its_border():
    image, mask = noise(), ellipse(300, 260, 60, 60)
    result = drawn(image, [predicted(mask, RegionPrompt(box=(100, 90, 500, 430)))])
    border = rectangle(100, 90, 500, 430) & ~rectangle(101, 91, 499, 429)
    touched = (result != image).any(axis=2)
    np.testing.assert_array_equal(touched & ~mask, border)
    white = (result[border] == marks.WHITE).all(axis=1)
    coloured = (result[border] == marks.PALETTE[0]).all(axis=1)
    assert (white | coloured).all() and 0.4 < white.mean() < 0.6


@pytest.mark.parametrize("box", [(0, 0, WIDTH, HEIGHT), (639.8, 519.7, 640, 520), (0, 0, 0.2, 520)])
def test_boxes_at_the_pictures_edge_are_drawn(box):
    mask = rectangle(200, 200, 400, 400)
    assert (changed(noise(), [predicted(mask, RegionPrompt(box=box))]) & ~mask).any()


def test_positive_points_are_a_green_plus_and_negative_ones_a_red_minus():
    prompt = RegionPrompt(points=((100.0, 100.0), (500.0, 100.0)), labels=(1, 0))
    result = drawn(noise(), [predicted(rectangle(200, 300, 400, 500), prompt)])
    assert tuple(result[100, 100]) == tuple(result[95, 100]) == tuple(result[100, 95]) == marks.POSITIVE
    assert tuple(result[100, 500]) == tuple(result[100, 495]) == marks.NEGATIVE
    assert 100 <= result[92, 500].min() and result[92, 500].max() < 140


def test_the_number_does_not_hide_the_clicked_point():
    mask = rectangle(100, 100, 301, 301)
    result = drawn(noise(), [predicted(mask, RegionPrompt(points=((200.5, 200.5),), labels=(1,)))])
    assert tuple(result[200, 200]) == marks.POSITIVE


def test_an_empty_mask_shows_its_prompt_and_number_only():
    empty = np.zeros((HEIGHT, WIDTH), dtype=bool)
    touched = changed(noise(), [predicted(empty, RegionPrompt(box=(100, 100, 300, 300)))])
    assert touched[100, 100:300].all()
    assert 0 < touched[110:290, 110:290].sum() < 1000
    assert not (touched & ~rectangle(100, 100, 300, 300)).any()


def test_a_tiny_mask_is_not_hidden_by_its_number():
    tiny = rectangle(300, 300, 304, 304)
    result = drawn(noise(), [predicted(tiny, RegionPrompt(box=(280, 280, 330, 330)))])
    assert (result[tiny] == marks.PALETTE[0]).all()


def test_signs_of_identical_masks_stand_side_by_side():
    size, taken = (20, 20), []
    area = rectangle(200, 200, 300, 300)
    for _ in range(9):
        x, y = marks.free_spot((250, 250), size, (WIDTH, HEIGHT), taken, area)
        box = marks.occupied((x, y), size)
        assert area[int(y), int(x)]
        assert all(box[2] <= t[0] or t[2] <= box[0] or box[3] <= t[1] or t[3] <= box[1] for t in taken)
        taken.append(box)


def test_many_regions_are_all_drawn():
    masks = [rectangle(x, y, x + 40, y + 40) for y in range(10, 500, 60) for x in range(10, 600, 60)]
    many = [predicted(mask, recognize="cup") for mask in masks]
    touched = changed(noise(), many)
    assert all(touched[mask].all() for mask in masks) and len(many) > len(marks.PALETTE) ** 2


@pytest.mark.parametrize("side", [1, 64, 128, 300, 511])
def test_small_pictures_are_enlarged_by_a_whole_factor(side):
    image = noise(side, side)
    factor = -(-512 // side)
    mask = rectangle(side // 4, side // 4, side // 2, side // 2, side, side)
    prompt = RegionPrompt(box=(0, 0, side, side))
    result = draw_regions(image, [predicted(mask, prompt)])
    assert result.width > side * factor >= 512 and result.height >= side * factor
    plain = Image.fromarray(image).resize((side * factor, side * factor), Image.Resampling.BICUBIC)
    far = np.s_[side * factor * 3 // 4 : side * factor - 8, side * factor * 3 // 4 : side * factor - 8]
    np.testing.assert_array_equal(np.asarray(result)[far], np.asarray(plain)[far])


def test_an_enlarged_mask_covers_the_same_part_of_the_picture():
    image, mask = noise(128, 128), ellipse(60, 70, 30, 20, 128, 128)
    result = np.asarray(draw_regions(image, [predicted(mask)]))[:512, :512]
    plain = np.asarray(Image.fromarray(image).resize((512, 512), Image.Resampling.BICUBIC))
    touched = (result != plain).any(axis=2)
    blocks = touched.reshape(128, 4, 128, 4).mean(axis=(1, 3)) > 0.5
    assert (blocks == mask).mean() > 0.995


def test_the_legend_is_below_wide_pictures_and_beside_others():
    text = dict(caption="a cup on a table")
    wide = draw_regions(noise(520, 900), [predicted(rectangle(5, 5, 90, 90, 520, 900), **text)])
    high = draw_regions(noise(900, 520), [predicted(rectangle(5, 5, 90, 90, 900, 520), **text)])
    assert wide.width == 900 and wide.height > 520
    assert high.height == 900 and high.width > 520
    assert draw_regions(noise(), []).size == (WIDTH, HEIGHT)


def test_only_the_asked_languages_are_in_the_legend():
    mask, image = rectangle(100, 100, 300, 300), noise()
    answers = {"recognize": {"en": GeneratedText("cup", 0.9), "fr": GeneratedText("tasse", 0.9)}}
    both = RegionPrediction(RegionPrompt(mask=mask), mask, 0.9, 0.8, answers)
    english, none = predicted(mask, recognize="cup"), predicted(mask)
    assert draw_regions(image, [both], ("en",)) == draw_regions(image, [english])
    assert draw_regions(image, [both], ("en", "fr")) != draw_regions(image, [english])
    assert draw_regions(image, [both], ()) == draw_regions(image, [none])


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("word", ["a cup ", "Donaudampfschifffahrtsgesellschaft", "x"])
def test_long_texts_stay_inside_the_panels_columns(columns, word):
    size, width = 14, 400 * columns
    sign = marks.badge("10", marks.PALETTE[1], 20)
    entries = [Entry(sign, word * 9, (("describe", word * 15), ("", word * 7))) for _ in range(5)]
    panel = np.asarray(draw_panel(entries, width, size, columns))
    column = (width - size * (columns + 1)) // columns
    gutters = np.ones(width, dtype=bool)
    for i in range(columns):
        gutters[size + i * (column + size) : size + i * (column + size) + column] = False
    assert (panel[:, gutters] == BACKGROUND).all()
    assert (panel[: size // 2] == BACKGROUND).all() and (panel[-size // 2 :] == BACKGROUND).all()
    assert (panel[:, ~gutters] != BACKGROUND).any()


def test_a_longer_text_makes_the_legend_higher():
    mask = rectangle(5, 5, 90, 90)
    heights = [draw_regions(noise(), [predicted(mask, caption="a cup " * n)]).height for n in (1, 40, 160)]
    assert heights[0] < heights[1] < heights[2]


@pytest.mark.parametrize("size", [(128, 128), (520, 640), (900, 300)])
def test_task_examples_are_512_pixels_on_the_long_side(size):
    image, mask = noise(*size), rectangle(10, 10, 60, 60, *size)
    tile = draw_task_example(image, mask, predicted(mask, caption="a cup"), "caption", {"en": "a cup"})
    height = round(size[0] * TILE_SIDE / max(size))
    assert tile.width == TILE_SIDE and height < tile.height < height + 200


def test_a_task_example_shows_the_true_mask_in_dashes():
    image, mask, truth = noise(512, 512), rectangle(10, 10, 60, 60, 512, 512), rectangle(200, 200, 400, 400, 512, 512)
    tiles = [
        np.asarray(draw_task_example(image, shown, predicted(mask, caption="a cup"), "caption", {"en": "a cup"}))
        for shown in (truth, None)
    ]
    border = truth & ~rectangle(201, 201, 399, 399, 512, 512)
    touched = (tiles[0] != tiles[1][: len(tiles[0])]).any(axis=2)[:512]
    np.testing.assert_array_equal(touched, border)
    values = tiles[0][:512][border]
    assert ((values == marks.BLACK).all(axis=1) | (values == marks.WHITE).all(axis=1)).all()


def test_a_task_example_lists_each_language_and_bears_a_missing_answer():
    image, mask = noise(512, 512), rectangle(10, 10, 60, 60, 512, 512)
    heights = [
        draw_task_example(image, mask, predicted(mask), "caption", dict.fromkeys(languages, "a cup")).height
        for languages in ([], ["en"], ["en", "fr"])
    ]
    assert heights[2] - heights[1] == heights[1] - heights[0] > 0


@pytest.mark.parametrize("columns", [1, 2, 3, 7])
def test_every_tile_is_on_the_contact_sheet_unchanged(columns):
    sizes = [(100 - 10 * i, 40 + 10 * i) for i in range(5)]
    tiles = [Image.new("RGB", size, marks.PALETTE[i]) for i, size in enumerate(sizes)]
    sheet = np.asarray(draw_contact_sheet(tiles, columns))
    assert (sheet != BACKGROUND).any(axis=2).sum() == sum(width * height for width, height in sizes)
    for i, (width, height) in enumerate(sizes):
        x1, y1, x2, y2 = mask_box((sheet == marks.PALETTE[i]).all(axis=2))
        assert (x2 - x1, y2 - y1) == (width, height)


@pytest.mark.parametrize("tiles, columns", [([], 2), ([Image.new("RGB", (4, 4))], 0)])
def test_a_contact_sheet_of_nothing_is_refused(tiles, columns):
    with pytest.raises(PamKitError, match="contact sheet"):
        draw_contact_sheet(tiles, columns)


@pytest.mark.parametrize(
    "image, mask, prompt, message",
    [
        (noise().astype(float), rectangle(0, 0, 9, 9), None, "uint8"),
        (noise()[:, :, 0], rectangle(0, 0, 9, 9), None, "uint8"),
        (noise(0, 5), np.zeros((0, 5), bool), None, "empty"),
        (noise(), rectangle(0, 0, 9, 9, 64, 64), None, "64x64 pixels, the picture 640x520"),
        (noise(), rectangle(0, 0, 9, 9), RegionPrompt(box=(0, 0, 641, 9)), "does not fit"),
        (noise(), rectangle(0, 0, 9, 9), RegionPrompt(points=((1, 530),), labels=(1,)), "outside"),
    ],
)
def test_what_does_not_fit_the_picture_is_refused(image, mask, prompt, message):
    with pytest.raises(PamKitError, match=message):
        draw_regions(image, [predicted(mask, prompt)])


def test_a_true_mask_of_another_kind_is_refused():
    prediction = predicted(rectangle(0, 0, 9, 9))
    for truth in (rectangle(0, 0, 9, 9).astype(np.uint8), rectangle(0, 0, 9, 9, 64, 64)):
        with pytest.raises(PamKitError):
            draw_task_example(noise(), truth, prediction, "caption", {})


def test_numbers_are_wider_only_where_they_need_to_be():
    one, three = (marks.badge(text, marks.PALETTE[0], 24) for text in ("7", "123"))
    assert one.size == (24, 24) and three.height == 24 and three.width > 24


def test_colours_repeat_after_the_palette():
    count = len(marks.PALETTE)
    colours = [marks.region_colour(i) for i in range(2 * count)]
    assert colours[:count] == colours[count:] and len(set(colours)) == count
