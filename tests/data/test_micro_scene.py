"""Masks and layouts of the micro dataset."""

from collections import Counter

import numpy as np
import pytest

from pam_kit.data.micro.backgrounds import make_background
from pam_kit.data.micro.painting import PALETTE, rasterize
from pam_kit.data.micro.scene import MIN_VISIBLE_AREA, MIN_VISIBLE_SHARE, make_scene

SPLITS = [("standard", 3, 6), ("lookalike", 6, 8)]


def scenes(split, fewest, most, side=128, count=30):
    return [make_scene(np.random.default_rng([7, i]), side, split, fewest, most) for i in range(count)]


@pytest.mark.parametrize(("split", "fewest", "most"), SPLITS)
def test_masks_are_what_the_eye_sees(split, fewest, most):
    """Over a black and a white background the same object pixels come out: half covered or more is in a mask."""
    for scene in scenes(split, fewest, most):
        shape = (3, *scene.ids.shape)
        on_black = scene.draw(np.zeros(shape, np.float32)).astype(int)
        on_white = scene.draw(np.full(shape, 255, np.float32)).astype(int)
        opacity = 1 - (on_white - on_black).mean(axis=2) / 255
        # Two half-covered edges that meet hide more of the background than either; there only one side is checked.
        assert (opacity[scene.ids >= 0] > 0.49).all()
        outside = opacity[scene.ids < 0]
        assert (outside < 0.51).mean() > 0.995 and (outside < 0.76).all()


@pytest.mark.parametrize(("split", "fewest", "most"), SPLITS)
@pytest.mark.parametrize("side", [64, 128, 200])
def test_later_objects_cover_earlier_ones_and_all_stay_in_view(split, fewest, most, side):
    for scene in scenes(split, fewest, most, side, 12):
        full = []
        for item in scene.objects:
            mask = np.zeros((side, side), bool)
            inside = rasterize(item.kind, item.diameter, item.rotation).inside
            reach = len(inside) // 2
            assert reach <= min(item.x, item.y) and max(item.x, item.y) + reach < side
            mask[item.y - reach : item.y + reach + 1, item.x - reach : item.x + reach + 1] = inside
            full.append(mask)
        for number, item in enumerate(scene.objects):
            later = np.any(full[number + 1 :], axis=0) if number + 1 < len(full) else False
            visible = full[number] & ~later
            assert np.array_equal(visible, scene.ids == number)
            assert visible.sum() >= MIN_VISIBLE_SHARE * full[number].sum()
            assert visible.sum() >= MIN_VISIBLE_AREA * side * side
            assert item.visible_share == pytest.approx(visible.sum() / full[number].sum())


def test_every_look_is_unique_and_some_objects_are_partly_hidden():
    drawn = scenes("standard", 3, 6, count=100)
    for scene in drawn:
        looks = [(o.kind, o.colour) for o in scene.objects]
        assert len(set(looks)) == len(looks) and 3 <= len(looks) <= 6
    hidden = np.mean([o.visible_share < 0.95 for scene in drawn for o in scene.objects])
    assert 0.05 < hidden < 0.4


def test_most_standard_scenes_have_look_alikes_of_both_sorts():
    drawn = scenes("standard", 3, 6, count=200)
    repeated_kind = np.mean([len({o.kind for o in s.objects}) < len(s.objects) for s in drawn])
    repeated_colour = np.mean([len({o.colour for o in s.objects}) < len(s.objects) for s in drawn])
    assert repeated_kind > 0.75 and repeated_colour > 0.75


def test_lookalike_scenes_hold_for_each_object_a_twin_in_kind_and_one_in_colour():
    right, total = 0, 0
    for scene in scenes("lookalike", 6, 8, count=150):
        objects = scene.objects
        for item in objects:
            kin = [o for o in objects if o is not item and o.kind == item.kind]
            same_colour = [o for o in objects if o is not item and o.colour == item.colour]
            assert len(kin) == 1 and kin[0].colour != item.colour
            assert len(same_colour) == 1 and same_colour[0].kind != item.kind
        right += max(Counter(o.kind for o in objects).values())
        total += len(objects)
    assert right / total <= 0.3  # the best that a guess from the whole picture can do


def test_object_pixels_have_the_named_colour():
    """Most pixels of an object are nearer to body or accent of its own colour than to those of any other."""
    names = list(PALETTE)
    references = np.array([c for name in names for c in PALETTE[name]], float)
    agreements = []
    for scene in scenes("standard", 3, 6, count=20):
        image = scene.draw(np.full((3, 128, 128), 128, np.float32)).astype(float)
        for number, item in enumerate(scene.objects):
            pixels = image[scene.ids == number]
            nearest = np.linalg.norm(pixels[:, None] - references[None], axis=2).argmin(axis=1) // 2
            votes = Counter(names[i] for i in nearest)
            agreements.append(votes.most_common(1)[0][0] == item.colour)
    assert np.mean(agreements) > 0.95


@pytest.mark.parametrize("backgrounds", ["procedural", "photo", "mixed"])
@pytest.mark.parametrize("side", [64, 130])
def test_backgrounds_fit_and_are_muted_enough_for_objects_to_stand_out(backgrounds, side):
    if backgrounds != "procedural":
        pytest.importorskip("skimage")
        pytest.importorskip("sklearn")
    for seed in range(24):
        canvas = make_background(np.random.default_rng(seed), side, backgrounds)
        assert canvas.shape == (3, side, side) and canvas.dtype == np.float32
        assert canvas.min() >= 0 and canvas.max() <= 255
        if backgrounds == "procedural":
            assert 40 < canvas.mean() < 220
            assert np.ptp(canvas.mean(axis=(1, 2))) < 80  # no strong hue
