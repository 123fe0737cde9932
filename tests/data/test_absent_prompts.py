"""Prompts as a tracker gives them: where they lie, and that they change nothing else of what a position holds."""

import numpy as np
import pytest
import torch
from torchvision import ops

from pam_kit.contracts import ClipSample, Region, RegionPrompt, RegionSample
from pam_kit.data.micro.dataset import MicroDataset
from pam_kit.data.mixture import Mixture
from pam_kit.data.prepare import Geometry, collate
from pam_kit.data.prompting import absent_prompt, loose_prompt, region_box
from pam_kit.data.training import TrainingView
from pam_kit.geometry import box_iou
from pam_kit.sections import ComponentChoice, DataSection

GEOMETRY = Geometry(64, (16, 16))
BOXES = [(10.0, 10.0, 40.0, 30.0), (60.0, 20.0, 70.0, 50.0)]


def view(dataset=None, **changes) -> TrainingView:
    section = DataSection(train=ComponentChoice("micro"), **changes)
    dataset = MicroDataset(9, image_size=64) if dataset is None else dataset
    return TrainingView(Mixture.of(dataset, 5), section, GEOMETRY, seed=5)


def test_no_region_answers_and_every_kind_of_place_is_drawn():
    rng, found = np.random.default_rng(0), []
    for _ in range(300):
        prompt = absent_prompt(BOXES[0], BOXES, 90, 60, rng)
        prompt.check(90, 60)
        found.append(prompt.box)
    overlap = ops.box_iou(torch.tensor(found), torch.tensor(BOXES))
    assert overlap.max() < 0.3
    assert (overlap > 0.1).any(1).float().mean() > 0.2, "a part of an object"
    assert (overlap == 0).all(1).float().mean() > 0.1, "far from every object"
    inside = [box[0] >= 10 and box[1] >= 10 and box[2] <= 40 and box[3] <= 30 for box in found]
    assert any(inside)
    sides = np.asarray(found)[:, 2:] - np.asarray(found)[:, :2]
    assert sides.max(0)[0] <= 1.2 * 30 and sides.max(0)[1] <= 1.2 * 20 and sides.min() >= 1


def test_a_loose_box_is_of_its_object_alone():
    boxes, rng = [*BOXES, (30.0, 12.0, 58.0, 32.0)], np.random.default_rng(0)
    found = [loose_prompt(boxes[0], boxes, 90, 60, rng).box for _ in range(300)]
    for box in found:
        RegionPrompt(box=box).check(90, 60)
    overlap = ops.box_iou(torch.tensor(found), torch.tensor(boxes))
    assert (overlap[:, 0] >= 0.3).all() and (overlap.argmax(1) == 0).all()
    assert (overlap[:, 0] < 0.5).float().mean() > 0.2, "as loose as trackers ask"
    one, other = (4.0, 4.0, 10.0, 9.0), (2.0, 5.0, 8.0, 12.0)
    expected = ops.box_iou(torch.tensor([one]), torch.tensor([other])).item()
    assert box_iou(one, other) == pytest.approx(expected) and box_iou(one, (10.0, 4.0, 12.0, 9.0)) == 0


def test_where_none_is_found_there_is_none():
    """Less than a pixel of an object is no box; and two scales of boxes over each other leave no place for a third."""
    assert absent_prompt((0.0, 0.0, 0.8, 9.0), [], 90, 60, np.random.default_rng(0)) is None
    wide = [(x, 0.0, x + side, 1.0) for side in np.arange(1.2, 4.9, 0.2) for x in np.arange(0, 8, 0.1)]
    assert absent_prompt((0.0, 0.0, 4.0, 1.0), wide, 12, 1, np.random.default_rng(0)) is None


def test_the_box_of_a_region():
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:9, 6:8] = True
    prompt = RegionPrompt(box=(1.0, 2.0, 3.0, 4.0))
    assert region_box(Region("a", mask=mask, prompt=prompt)) == (6.0, 4.0, 8.0, 9.0)
    assert region_box(Region("a", prompt=prompt)) == prompt.box
    assert region_box(Region("a", prompt=RegionPrompt(points=((1.0, 1.0),), labels=(1,)))) is None


def test_they_come_last_and_change_nothing_else():
    plain, more, again = view(), view(absent_prompts=0.6), view(absent_prompts=0.6)
    kinds = {"nothing": 0, "loose": 0}
    for position in range(30):
        without, item, same = (each[position].item for each in (plain, more, again))
        count = len(without.points)
        assert item.asked == without.asked
        for name in ("points", "labels", "targets"):
            for one, other in zip(getattr(item, name), getattr(without, name), strict=False):
                np.testing.assert_array_equal(one, other)
            for one, other in zip(getattr(item, name), getattr(same, name), strict=True):
                np.testing.assert_array_equal(one, other)
        known = {target.tobytes() for target in without.targets}
        for row in range(count, len(item.points)):
            points, target = item.points[row], item.targets[row]
            assert item.labels[row].tolist() == [2, 3] and item.prompt_masks[row] is None
            assert (points[1] > points[0]).all() and target.shape == (16, 16)
            assert not target.any() or target.tobytes() in known
            kinds["loose" if target.any() else "nothing"] += 1
    regions = sum(len(plain[position].item.points) for position in range(30))
    for count in kinds.values():
        assert abs(count - 0.6 * regions) < 4 * (0.24 * regions) ** 0.5 + 0.05 * regions


def test_a_batch_counts_them_as_regions_with_an_empty_target():
    item = view(absent_prompts=1.0)[0].item
    batch = collate([item, item], GEOMETRY)
    assert batch.has_target.all() and len(batch) == 2 * len(item.points) > 4
    empty = ~batch.target_masks.flatten(1).any(1)
    assert empty.sum() > 0 and not empty[batch.questions.region_index].any()


def test_kept_features_are_of_the_same_prompts_in_every_pass():
    cached = view(MicroDataset(1, image_size=64), absent_prompts=1.0, cache_features=True, regions_per_image=9)
    passes = [cached[position].item for position in range(4)]
    drawn = [sorted(tuple(points.ravel()) for points in item.points) for item in passes]
    assert drawn[0] == drawn[1] == drawn[2] == drawn[3]


def test_clips_are_left_out():
    mask = np.zeros((32, 48), dtype=bool)
    mask[8:20, 4:16] = True
    frames = [np.full((32, 48, 3), 90, dtype=np.uint8)] * 3
    clip = ClipSample("clip", frames, [Region("a", mask=mask, texts={"recognize": {"en": "cup"}})], {})
    item = view([clip], absent_prompts=1.0)[0].item
    assert len(item.first.points) == 1


def test_a_region_without_a_box_is_left_out():
    region = Region("a", RegionPrompt(points=((5.0, 5.0),), labels=(1,)), texts={"recognize": {"en": "cup"}})
    sample = RegionSample("a", np.full((32, 48, 3), 90, dtype=np.uint8), [region])
    assert len(view([sample], absent_prompts=1.0)[0].item.points) == 1
