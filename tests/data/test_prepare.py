"""Pictures, prompts and masks at the model's size, and many of them in one batch."""

import numpy as np
import pytest
import torch

from pam_kit.contracts import RegionBatch, RegionPrompt
from pam_kit.data.prepare import Asked, Geometry, collate, prepare
from pam_kit.errors import PromptError

GEOMETRY = Geometry(64, (16, 16))
CUP = Asked(0, "recognize", "en", "What is it?", "cup")


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def coarse(mask: np.ndarray, geometry: Geometry = GEOMETRY) -> np.ndarray:
    height, width = mask.shape
    return prepare(picture(width, height), [RegionPrompt(mask=mask)], [], geometry).prompt_masks[0]


@pytest.mark.parametrize(("width", "height"), [(200, 100), (50, 480), (64, 64), (33, 7)])
def test_coordinates_are_scaled_by_side(width, height):
    box = (width / 4, height / 8, width, height / 2)
    prompt = RegionPrompt(box, ((width / 2, height), (0.0, 0.0)), (1, 0))
    prepared = prepare(picture(width, height), [prompt, RegionPrompt(box=box)], [], GEOMETRY)
    corners = [[16, 8], [64, 32]]
    np.testing.assert_allclose(prepared.points[0], [*corners, [32, 64], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(prepared.points[1], corners, rtol=1e-6)
    assert prepared.labels[0].tolist() == [2, 3, 1, 0] and prepared.labels[1].tolist() == [2, 3]
    assert prepared.prompt_masks == [None, None] and prepared.targets == [None, None]


def test_the_picture_is_stretched_to_the_square():
    halves = np.zeros((40, 300, 3), dtype=np.uint8)
    halves[:, :150], halves[:, 150:] = (200, 10, 0), (0, 10, 250)
    image = prepare(halves, [], [], GEOMETRY).image
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8
    assert (image[:, :, :30] == torch.tensor([200, 10, 0], dtype=torch.uint8)[:, None, None]).all()
    assert (image[:, :, 34:] == torch.tensor([0, 10, 250], dtype=torch.uint8)[:, None, None]).all()


def test_a_picture_of_the_models_size_is_left_alone():
    image = picture(64, 64)
    prepared = prepare(image, [], [], GEOMETRY).image
    assert np.array_equal(prepared.permute(1, 2, 0).numpy(), image)
    prepared[:] = 0
    assert image.any()


def test_a_cell_of_a_mask_is_set_where_half_of_it_is():
    rng = np.random.default_rng(0)
    fractions = rng.permutation(np.resize(np.arange(13), 256)).reshape(16, 16)  # of 12 pixels a cell, 3 high, 4 wide
    fine = np.zeros((16, 3, 16, 4), dtype=bool)
    for row, column in np.ndindex(16, 16):
        chosen = rng.permutation(12)[: fractions[row, column]]
        fine[row, chosen // 4, column, chosen % 4] = True
    assert np.array_equal(coarse(fine.reshape(48, 64)), fractions >= 6)


@pytest.mark.parametrize(("width", "height"), [(16, 16), (640, 480), (1333, 700), (3000, 2500)])
def test_the_tiniest_mask_becomes_one_cell(width, height):
    for x, y in [(0, 0), (width - 1, height - 1), (width // 3, height // 2)]:
        mask = np.zeros((height, width), dtype=bool)
        mask[y, x] = True
        cells = np.argwhere(coarse(mask)).tolist()
        assert [y * 16 // height, x * 16 // width] in cells and len(cells) <= 4


def test_an_empty_target_stays_empty():
    prompts = [RegionPrompt(box=(0, 0, 8, 8))] * 2
    empty = np.zeros((32, 32), dtype=bool)
    targets = prepare(picture(32, 32), prompts, [], GEOMETRY, [empty, ~empty]).targets
    assert not targets[0].any() and targets[1].all()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (RegionPrompt(box=(10, 10, 51, 20)), "does not fit a picture of 50x40"),
        (RegionPrompt(points=((10, 41),), labels=(1,)), "lies outside a picture of 50x40"),
        (RegionPrompt(mask=np.ones((50, 40), dtype=bool)), "the mask is 40x50 pixels, the picture 50x40"),
        (RegionPrompt(), "the prompt is empty"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(prompt, message):
    with pytest.raises(PromptError, match=message):
        prepare(picture(50, 40), [RegionPrompt.whole_image(50, 40), prompt], [], GEOMETRY)


def three_pictures():
    """Two regions and three questions; no region at all; one region of a mask alone, without a question."""
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:15, 5:25] = True
    first = prepare(
        picture(30, 20, 1),
        [RegionPrompt((1, 2, 20, 15), ((5, 5),), (1,)), RegionPrompt(points=((7, 7),), labels=(1,))],
        [CUP, Asked(1, "caption", "zh", "q", "一个"), Asked(1, "recognize", "en", "r", "key")],
        GEOMETRY,
        [mask, None],
    )
    second = prepare(picture(64, 64, 2), [], [], GEOMETRY)
    third = prepare(picture(30, 20, 3), [RegionPrompt(mask=mask)], [CUP], GEOMETRY, [~mask])
    return [first, second, third]


def test_a_batch_numbers_regions_and_questions_through():
    batch = collate(three_pictures(), GEOMETRY)
    assert len(batch) == 3 and batch.images.shape == (3, 3, 64, 64)
    assert batch.image_index.tolist() == [0, 0, 2] and batch.image_index.dtype == torch.long
    assert batch.questions.region_index.tolist() == [0, 1, 1, 2]
    assert batch.questions.answers == ["cup", "一个", "key", "cup"]
    assert batch.questions.tasks == ["recognize", "caption", "recognize", "recognize"]
    assert batch.questions.languages == ["en", "zh", "en", "en"]
    assert batch.prompts.has_mask.tolist() == [False, False, True]
    assert batch.has_target.tolist() == [True, False, True]


def test_padding_has_a_code_of_its_own():
    prompts = collate(three_pictures(), GEOMETRY).prompts
    assert prompts.labels.tolist() == [[2, 3, 1], [1, -1, -1], [-1, -1, -1]]
    assert not prompts.points[prompts.labels == -1].any()
    assert prompts.points.dtype == torch.float32 and prompts.labels.dtype == torch.long


def test_mask_prompts_alone_need_no_points():
    batch = collate(three_pictures()[2:], GEOMETRY)
    assert batch.prompts.points.shape == (1, 0, 2) and batch.prompts.labels.shape == (1, 0)
    assert len(collate(three_pictures()[1:2], GEOMETRY)) == 0


def test_a_batch_holds_what_each_picture_holds_alone():
    items = three_pictures()
    together = collate(items, GEOMETRY)
    for index, item in enumerate(items):
        alone = collate([item], GEOMETRY)
        assert torch.equal(together.images[index], alone.images[0])
        own = together.image_index == index
        compare_regions(together, own, alone)


def compare_regions(together: RegionBatch, own: torch.Tensor, alone: RegionBatch) -> None:
    width = alone.prompts.points.shape[1]
    for name in ("points", "labels"):
        assert torch.equal(getattr(together.prompts, name)[own, :width], getattr(alone.prompts, name))
    assert torch.equal(together.prompts.masks[own], alone.prompts.masks)
    assert torch.equal(together.target_masks[own], alone.target_masks)
    assert torch.equal(together.has_target[own], alone.has_target)
    first = int(own.nonzero()[0]) if own.any() else 0
    asked = together.questions
    mine = [i for i, region in enumerate(asked.region_index.tolist()) if own[region]]
    assert [asked.region_index[i] - first for i in mine] == alone.questions.region_index.tolist()
    assert [asked.answers[i] for i in mine] == alone.questions.answers
