"""Video masks: J and F of shapes that can be worked out by hand, against a slow reference, merged over processes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pam_kit.errors import PamKitError
from pam_kit.evaluation.masklets import MaskletScore, boundary_f, presence_accuracy, region_similarity


def rectangle(shape: tuple[int, int], top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def blobs(shape: tuple[int, int], seed: int, share: float = 0.5) -> np.ndarray:
    """Smooth random shapes: coarse noise, enlarged by bilinear interpolation."""
    noise = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(noise, shape, mode="bilinear")[0, 0] > 1 - share).numpy()


def slow_boundary(mask: np.ndarray) -> list[tuple[int, int]]:
    """DAVIS' rule pixel by pixel: the bottom row looks to the right only, the right column down only."""
    (height, width), found = mask.shape, []
    for y in range(height):
        for x in range(width):
            neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            inside = [(i, j) for i, j in neighbours if i < height and j < width]
            if any(mask[y, x] != mask[place] for place in inside):
                found.append((y, x))
    return found


def slow_f(pred: np.ndarray, truth: np.ndarray, tolerance: float) -> float:
    """Every boundary pixel against every other one."""
    ours, theirs = slow_boundary(pred), slow_boundary(truth)
    if not ours or not theirs:
        return float(not ours and not theirs)
    radius = np.ceil(tolerance * np.linalg.norm(pred.shape))

    def share(points, others):
        return np.mean([min(math.dist(p, o) for o in others) <= radius for p in points])

    precision, recall = share(ours, theirs), share(theirs, ours)
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


@given(
    shape=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    tolerance=st.sampled_from([0.0, 0.008, 0.08, 0.2, 0.99]),
    shares=st.tuples(st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.sampled_from([0.0, 0.1, 0.5, 1.0])),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_f_is_that_of_the_slow_reference(shape, tolerance, shares, seed):
    random = np.random.default_rng(seed)
    pred, truth = (random.random(shape) < share for share in shares)
    assert boundary_f(pred, truth, tolerance) == pytest.approx(slow_f(pred, truth, tolerance), abs=1e-12)


@pytest.mark.parametrize(("shape", "radius"), [((300, 400), 4), ((97, 211), 2), ((480, 854), 8), ((600, 800), 8)])
def test_f_is_that_of_a_distance_transform(shape, radius):
    """Real sizes; 300 x 400 and 600 x 800 have a diagonal of which 0.008 is a whole number of pixels."""
    ndimage = pytest.importorskip("scipy.ndimage")
    pred, truth = blobs(shape, 1), blobs(shape, 1, share=0.45)
    maps = []
    for mask in (pred, truth):
        padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
        maps.append((mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:]))
    far = [ndimage.distance_transform_edt(~found) for found in maps]
    precision, recall = (far[1][maps[0]] <= radius).mean(), (far[0][maps[1]] <= radius).mean()
    assert 0 < precision < 1 and 0 < recall < 1
    assert boundary_f(pred, truth) == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-12)


@pytest.mark.parametrize("shift", range(20))
def test_a_shifted_square(shift):
    """A square of 20 pixels, moved to the right in a picture of 128, where the tolerance is 2 pixels.

    The boundary is a ring of side 21, 80 pixels. In each of its two rows all but shift - 2 pixels are near the other
    ring's row. Of its two columns, 19 pixels each without their ends, the outer one is near nothing; the inner one is
    near the other's rows with 2 pixels at either end, and near its column, wholly, once that is 2 pixels away.
    """
    truth, pred = rectangle((128, 128), 40, 40, 20, 20), rectangle((128, 128), 40, 40 + shift, 20, 20)
    near = 80 if shift <= 2 else 2 * (21 - (shift - 2)) + (19 if 20 - shift <= 2 else 4)
    assert region_similarity(pred, truth) == pytest.approx((20 - shift) / (20 + shift))
    assert boundary_f(pred, truth) == pytest.approx(near / 80)


def test_a_small_square_inside_a_large_one():
    """Rings of side 15 and 11, 2 pixels apart along their sides and 2 * sqrt(2) at their corners.

    Within 3 pixels all of both is near. Within 2, the large ring loses what has no pixel of the small one straight
    opposite: 3 pixels at each corner.
    """
    large, small = rectangle((100, 100), 20, 20, 14, 14), rectangle((100, 100), 22, 22, 10, 10)
    assert boundary_f(small, large, tolerance=3 / math.hypot(100, 100)) == 1
    precision, recall = 1, (56 - 4 * 3) / 56
    f = 2 * precision * recall / (precision + recall)
    assert boundary_f(small, large, tolerance=2 / math.hypot(100, 100)) == pytest.approx(f)


def test_empty_and_full_masks():
    shape = (32, 48)
    empty, full, some = np.zeros(shape, bool), np.ones(shape, bool), rectangle(shape, 4, 4, 9, 9)
    assert region_similarity(empty, empty) == boundary_f(empty, empty) == 1
    assert region_similarity(some, empty) == region_similarity(empty, some) == 0
    assert boundary_f(some, empty) == boundary_f(empty, some) == 0
    assert region_similarity(full, empty) == 0
    assert boundary_f(full, empty) == 1, "neither has a boundary: DAVIS looks only inside the picture"


def test_arrays_and_tensors_alike():
    pred, truth = blobs((40, 60), 3), blobs((40, 60), 4)
    assert boundary_f(torch.from_numpy(pred), truth) == boundary_f(pred, truth)
    assert region_similarity(pred, torch.from_numpy(truth)) == region_similarity(pred, truth)


def objects(count: int) -> list[tuple[list[np.ndarray], list[np.ndarray]]]:
    return [
        ([blobs((24, 32), 10 * i + j) for j in range(i + 3)], [blobs((24, 32), 10 * i + j + 5) for j in range(i + 3)])
        for i in range(count)
    ]


def scored(items, **arguments) -> MaskletScore:
    score = MaskletScore(**arguments)
    for predicted, truth in items:
        score.update(predicted, truth)
    return score


def values(score: MaskletScore) -> dict[str, float]:
    return {name: float(value) for name, value in score.compute().items()}


def test_means_are_over_frames_then_over_objects():
    items = objects(3)
    by_object = [
        [np.mean([measure(p, t) for p, t in zip(*item, strict=True)]) for item in items]
        for measure in (region_similarity, boundary_f)
    ]
    j, f = np.mean(by_object[0]), np.mean(by_object[1])
    expected = {"J": j, "F": f, "J&F": (j + f) / 2, "presence accuracy": 1}
    assert values(scored(items)) == pytest.approx(expected, abs=1e-6)


def test_the_first_and_the_last_frame_can_be_left_out():
    nothing, square = np.zeros((32, 32), bool), rectangle((32, 32), 4, 4, 9, 9)
    item = ([nothing, square, square, nothing], [square] * 4)

    def j(**arguments):
        return values(scored([item], **arguments))["J"]

    assert j() == pytest.approx(1 / 2)
    assert j(skip_first=True) == j(skip_last=True) == pytest.approx(2 / 3)
    assert j(skip_first=True, skip_last=True) == 1


def test_presence_is_told_frame_by_frame():
    nothing, square, other = (
        np.zeros((32, 32), bool),
        rectangle((32, 32), 4, 4, 9, 9),
        rectangle((32, 32), 20, 20, 9, 9),
    )
    predicted, truth = [square, nothing, other, nothing, square], [square, nothing, square, square, nothing]
    assert presence_accuracy(predicted, truth) == 3 / 5
    assert values(scored([(predicted, truth)]))["presence accuracy"] == pytest.approx(3 / 5)


def test_metrics_of_several_processes_add_up():
    items = objects(5)
    together, first, second = scored(items), scored(items[:2]), scored(items[2:])
    first.merge_state(second)
    assert values(first) == pytest.approx(values(together), abs=1e-6)


def test_it_is_gathered_when_it_is_computed():
    """Through torchmetrics' own synchronisation, with a gathering that plays the other process."""
    items = objects(5)
    other = scored(items[2:])
    states = iter(list(other.metric_state.values()))
    both = {"dist_sync_fn": lambda own, group: [own, next(states)], "distributed_available_fn": lambda: True}
    assert values(scored(items[:2], **both)) == pytest.approx(values(scored(items)), abs=1e-6)


def test_a_reset_score_starts_anew_and_no_object_has_no_score():
    items = objects(2)
    score = scored(items)
    score.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert all(math.isnan(value) for value in values(score).values())
    score.update(*items[0])
    assert values(score) == values(scored(items[:1]))


@pytest.mark.parametrize(
    ("predicted", "truth", "message"),
    [
        ([np.zeros((4, 4), bool)], [], "1 predicted masks but 0 true ones"),
        ([], [], "no frame to judge: the object has 0 frames$"),
        ([np.zeros((4, 6), bool)], [np.zeros((4, 4), bool)], "predicted mask is 6x4 pixels, the true one 4x4"),
        ([np.zeros((4, 4))], [np.zeros((4, 4), bool)], r"predicted mask must be .* not \(4, 4\) float64; threshold it"),
        ([np.zeros((4, 4), bool)], [torch.zeros(1, 4, 4).bool()], r"true mask must be .* not \(1, 4, 4\) bool"),
        ([[[True]]], [np.zeros((1, 1), bool)], "predicted mask must be .* not list"),
    ],
)
def test_masks_that_do_not_fit_are_named(predicted, truth, message):
    score = MaskletScore()
    with pytest.raises(PamKitError, match=message):
        score.update(predicted, truth)
    assert score.objects == 0 and score.region == 0


def test_an_object_too_short_to_skip_is_named():
    mask = np.zeros((4, 4), bool)
    with pytest.raises(PamKitError, match="has 2 frames, and none is left with skip_first and skip_last"):
        MaskletScore(skip_first=True, skip_last=True).update([mask] * 2, [mask] * 2)


@pytest.mark.parametrize("tolerance", [-0.1, 1, math.nan])
def test_a_tolerance_is_a_share(tolerance):
    with pytest.raises(PamKitError, match="not a share of the picture's diagonal"):
        MaskletScore(tolerance=tolerance)
    with pytest.raises(PamKitError, match="not a share of the picture's diagonal"):
        boundary_f(np.zeros((4, 4), bool), np.zeros((4, 4), bool), tolerance)
