"""Prompts made from masks: exact ones point where they should, drawn ones stay within what a person would do."""

import numpy as np
import pytest

from pam_kit.contracts import Region, RegionPrompt
from pam_kit.data.prompting import BOX_JITTER, MAX_TRAINING_POINTS, drawn_prompt, exact_prompt
from pam_kit.errors import PromptError

HEIGHT, WIDTH = 60, 90


def masks() -> dict[str, np.ndarray]:
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(xs - 40, ys - 30)
    shapes = {
        "disc": distance < 20,
        "ring": (distance < 25) & (distance > 20),
        "line": (ys == 31) & (xs > 3) & (xs < 80),
        "two parts": ((xs < 10) & (ys < 10)) | ((xs > 70) & (ys > 50)),
        "pixel": (ys == 7) & (xs == 89),
        "all": xs >= 0,
        "dust": np.random.default_rng(3).random((HEIGHT, WIDTH)) < 0.02,
    }
    return shapes


MASKS = masks()


def region(name: str) -> Region:
    return Region(name, mask=MASKS[name])


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """By definition, pixel by pixel: the first and behind the last set column and row."""
    pixels = [(x, y) for y in range(HEIGHT) for x in range(WIDTH) if mask[y, x]]
    xs, ys = [x for x, _ in pixels], [y for _, y in pixels]
    return min(xs), min(ys), max(xs) + 1, max(ys) + 1


def holds(mask: np.ndarray, point: tuple[float, float]) -> bool:
    return bool(mask[int(point[1]), int(point[0])])


@pytest.mark.parametrize("name", MASKS)
def test_exact_prompts(name):
    point = exact_prompt(region(name), "point", WIDTH, HEIGHT)
    assert point.labels == (1,) and holds(MASKS[name], point.points[0])
    assert exact_prompt(region(name), "box", WIDTH, HEIGHT) == RegionPrompt(box=tight_box(MASKS[name]))
    assert exact_prompt(region(name), "mask", WIDTH, HEIGHT).mask is MASKS[name]
    whole = exact_prompt(region(name), "whole_image", WIDTH, HEIGHT)
    assert whole == RegionPrompt(box=(0, 0, WIDTH, HEIGHT))
    for prompt in (point, whole):
        prompt.check(WIDTH, HEIGHT)


def test_the_given_prompt_is_the_samples_own():
    own = RegionPrompt(points=((3.0, 4.0),), labels=(1,))
    assert exact_prompt(Region("cup", prompt=own, mask=MASKS["disc"]), "given", WIDTH, HEIGHT) is own
    with pytest.raises(PromptError, match="region disc has no prompt of its own; choose box, point or mask"):
        exact_prompt(region("disc"), "given", WIDTH, HEIGHT)


@pytest.mark.parametrize("name", MASKS)
def test_drawn_boxes_miss_an_edge_by_at_most_a_share_of_the_side(name):
    tight, rng = np.array(tight_box(MASKS[name]), dtype=float), np.random.default_rng(0)
    allowed = BOX_JITTER * np.tile(tight[2:] - tight[:2], 2)
    missed = []
    for _ in range(200):
        prompt = drawn_prompt(region(name), "box", WIDTH, HEIGHT, rng)
        prompt.check(WIDTH, HEIGHT)
        assert not prompt.points and prompt.mask is None
        missed.append(np.array(prompt.box) - tight)
    assert (np.abs(missed) <= allowed + 1e-9).all()
    # Of 200 uniform draws the widest come near both ends, wherever the picture's edge is not in the way.
    free = np.array([tight[0] > 9, tight[1] > 6, tight[2] < WIDTH - 9, tight[3] < HEIGHT - 6])
    widest = np.abs([np.min(missed, axis=0), np.max(missed, axis=0)])
    assert (widest[:, free] > 0.8 * allowed[free]).all()


@pytest.mark.parametrize("name", MASKS)
def test_drawn_points_lie_in_the_mask(name):
    rng, counts = np.random.default_rng(1), set()
    for _ in range(60):
        prompt = drawn_prompt(region(name), "point", WIDTH, HEIGHT, rng)
        prompt.check(WIDTH, HEIGHT)
        assert prompt.labels == (1,) * len(prompt.points) and prompt.box is None
        assert all(holds(MASKS[name], point) for point in prompt.points)
        assert len(set(prompt.points)) == len(prompt.points)
        counts.add(len(prompt.points))
    assert counts == set(range(1, min(MAX_TRAINING_POINTS, int(MASKS[name].sum())) + 1))


def test_a_drawn_mask_is_the_mask():
    assert drawn_prompt(region("ring"), "mask", WIDTH, HEIGHT, np.random.default_rng(0)).mask is MASKS["ring"]


@pytest.mark.parametrize("kind", ["box", "point", "mask"])
def test_without_a_mask_nothing_can_be_drawn(kind):
    bare = Region("bare", prompt=RegionPrompt(box=(1, 2, 3, 4)))
    with pytest.raises(PromptError, match=f"region bare has no mask, so no {kind} can be drawn"):
        exact_prompt(bare, kind, WIDTH, HEIGHT)
    with pytest.raises(PromptError, match=f"region bare has no mask, so no {kind} can be drawn"):
        drawn_prompt(bare, kind, WIDTH, HEIGHT, np.random.default_rng(0))


def test_unknown_kinds_name_the_known_ones():
    with pytest.raises(PromptError, match="'scribble'; choose box, point, mask, whole_image or given"):
        exact_prompt(region("disc"), "scribble", WIDTH, HEIGHT)
    with pytest.raises(PromptError, match="'given' for training; choose box, point or mask"):
        drawn_prompt(region("disc"), "given", WIDTH, HEIGHT, np.random.default_rng(0))
