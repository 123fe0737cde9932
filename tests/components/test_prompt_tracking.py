"""Following regions by boxes: which box is asked for, in closed form; and whole scenes with a decoder that is right."""

from itertools import islice

import pytest
import torch
from safetensors.torch import load_file, save_file

from pam_kit.components.backbones.prompt_tracking import PromptMemory, mask_boxes, prompt_boxes
from pam_kit.components.backbones.region_rows import no_prompts
from pam_kit.components.backbones.timm_sam import TimmSam
from pam_kit.contracts import ImageFeatures, PromptBatch, RegionFeatures
from pam_kit.errors import PamKitError

SIZE, CELLS = 64, 32  # two pixels a cell
BOXES = ([8.0, 10.0, 20.0, 30.0], [40.0, 40.0, 52.0, 48.0])


def boxes_of(*boxes) -> PromptBatch:
    count = len(boxes)
    points, labels = torch.tensor(boxes).reshape(count, 2, 2), torch.tensor([[2, 3]]).expand(count, 2)
    return PromptBatch(points, labels, torch.zeros(count, 1, CELLS, CELLS), torch.zeros(count, dtype=torch.bool))


def seen(*boxes, score=1.0) -> RegionFeatures:
    """Regions that fill these boxes; None is an empty mask."""
    logits = torch.full((len(boxes), 1, CELLS, CELLS), -5.0)
    for row, box in zip(logits, boxes, strict=True):
        if box is not None:
            x1, y1, x2, y2 = (int(value) // 2 for value in box)
            row[:, y1:y2, x1:x2] = 5
    rest = torch.zeros(len(boxes), 1, 1)
    scores = torch.as_tensor(score).expand(len(boxes)).float()
    return RegionFeatures(rest, rest, rest, rest, rest, logits, rest[:, 0, 0], scores, logits, rest[:, 0])


def tensors_of(regions: RegionFeatures) -> dict[str, torch.Tensor]:
    """The tensors of a record; no perceiver has asked for crops."""
    return {name: value for name, value in vars(regions).items() if name != "crop_embedding"}


def step(memory: PromptMemory, regions: RegionFeatures, prompts=None, rows=()) -> PromptBatch:
    asked = memory.ask(boxes_of() if prompts is None else prompts, rows)
    pointed = torch.tensor([row in rows for row in range(len(asked))], dtype=torch.bool)
    memory.remember(regions, asked, pointed)
    return asked


def memory_of(*boxes) -> PromptMemory:
    memory = PromptMemory(SIZE, CELLS)
    step(memory, seen(*boxes), boxes_of(*boxes), range(len(boxes)))
    return memory


def enlarged(box, share: float, shift=(0.0, 0.0)) -> torch.Tensor:
    x1, y1, x2, y2 = box
    margin = torch.tensor([x2 - x1, y2 - y1]) * share / 2
    low, high = torch.tensor([x1, y1]) - margin, torch.tensor([x2, y2]) + margin
    return torch.cat([low + torch.tensor(shift), high + torch.tensor(shift)])


def test_boxes_of_masks():
    masks = torch.zeros(3, 1, 4, 8, dtype=torch.bool)
    masks[0, 0, 1, 3] = masks[0, 0, 2, 6] = masks[1, 0, 3, 0] = True
    expected = [[24.0, 16.0, 56.0, 48.0], [0, 48, 8, 64], [0, 0, 64, 64]]
    torch.testing.assert_close(mask_boxes(masks, 64), torch.tensor(expected))


def test_boxes_of_prompts_hold_all_that_is_pointed_at():
    points = torch.tensor([[[30.0, 12], [10, 20], [1, 1]], [[5, 6], [50, 60], [0, 0]], [[0, 0], [0, 0], [0, 0]]])
    labels = torch.tensor([[1, 1, 0], [2, 3, -1], [-1, -1, -1]])
    masks = torch.zeros(3, 1, CELLS, CELLS)
    masks[1:, :, 2:4, 30:] = 1
    found = prompt_boxes(PromptBatch(points, labels, masks, torch.tensor([False, True, True])), SIZE)
    torch.testing.assert_close(found, torch.tensor([[10.0, 12, 30, 20], [5, 4, 64, 60], [60, 4, 64, 8]]))


def test_what_was_seen_is_asked_for_with_a_margin():
    asked = step(memory_of(*BOXES), seen(*BOXES))
    torch.testing.assert_close(asked.points.flatten(1), torch.stack([enlarged(box, 0.15) for box in BOXES]))
    assert asked.labels.tolist() == [[2, 3]] * 2 and not asked.has_mask.any()


def test_a_box_moves_by_its_smoothed_velocity():
    memory = memory_of([8.0, 20, 16, 30])
    for position, velocity in ((12, 2.0), (16, 3.0), (20, 3.5), (22, 2.75)):
        box = [float(position), 20, position + 8.0, 30]
        step(memory, seen(box))
        torch.testing.assert_close(memory.velocity, torch.tensor([[velocity, 0.0]]))
        torch.testing.assert_close(memory.places()[0], enlarged(box, 0.15, (velocity, 0.0)))


@pytest.mark.parametrize("gone", [seen([8.0, 20, 16, 30], score=-1.0), seen(None)])
def test_where_the_object_is_gone_the_last_box_grows_up_to_a_limit_and_finds_it_again(gone):
    memory, last = memory_of([8.0, 20, 16, 30]), [12.0, 20, 20, 30]
    step(memory, seen(last))
    for number in range(1, 10):
        step(memory, gone)
        assert memory.missing.tolist() == [number] and memory.box.tolist() == [last]
        travelled = sum(2 * 0.8**frame for frame in range(number + 1))
        expected = enlarged(last, min(0.6, 0.15 * (1 + number)), (travelled, 0.0))
        torch.testing.assert_close(memory.places()[0], expected)
    step(memory, seen([22.0, 20, 30, 30]))
    assert memory.missing.tolist() == [0]
    torch.testing.assert_close(memory.velocity, torch.tensor([[0.5 * 2 * 0.8**9 + 0.5 * 10 / 10, 0.0]]))


def test_an_object_that_hides_is_looked_for_in_its_whole_size():
    memory = memory_of([8.0, 20, 24, 30])
    for x in (12.0, 16.0, 20.0):
        step(memory, seen([x, 20, 24, 30]))
    torch.testing.assert_close(memory.size, torch.tensor([[16 * 0.9**3, 10]]))
    step(memory, seen(None))
    place = memory.places()[0]
    torch.testing.assert_close(place[2:] - place[:2], 1.3 * memory.size[0])
    torch.testing.assert_close((place[:2] + place[2:]) / 2, torch.tensor([22.0, 25]))


@pytest.mark.parametrize(
    ("after", "moved"),
    [([16.0, 20, 34, 28], 0.0), ([20.0, 20, 34, 28], 0.0), ([22.0, 20, 34, 28], 2.0), ([12.0, 20, 24, 28], -4.0)],
)
def test_a_box_moves_as_far_as_both_of_its_edges(after, moved):
    memory = memory_of([20.0, 20, 28, 28])
    step(memory, seen(after))
    torch.testing.assert_close(memory.velocity, torch.tensor([[0.5 * moved, 0.0]]))


@pytest.mark.parametrize(
    ("box", "velocity", "expected"),
    [
        ([0.0, 20, 10, 40], (-20.0, 0.0), [0.0, 18.5, 4, 41.5]),
        ([54.0, 20, 64, 40], (20.0, 0.0), [60.0, 18.5, 64, 41.5]),
        ([20.0, 54, 40, 64], (0.0, 4.0), [18.5, 57.25, 41.5, 64]),
        ([30.0, 30, 30, 30], (0.0, 0.0), [30.0, 30, 34, 34]),
    ],
)
def test_boxes_are_cut_to_the_picture_and_never_vanish(box, velocity, expected):
    memory = memory_of(box)
    memory.box, memory.velocity, memory.missing = torch.tensor([box]), torch.tensor([velocity]), torch.tensor([0])
    torch.testing.assert_close(memory.places(), torch.tensor([expected]))


def test_where_a_prompt_shows_nothing_the_prompt_is_the_place_to_look():
    memory = PromptMemory(SIZE, CELLS)
    step(memory, seen(None, BOXES[1]), boxes_of(*BOXES), [0, 1])
    assert memory.box.tolist() == list(BOXES) and memory.missing.tolist() == [1, 0]


def test_regions_come_later_and_are_pointed_at_anew():
    memory = memory_of([8.0, 20, 16, 30], BOXES[1])
    step(memory, seen([12.0, 20, 20, 30], BOXES[1]))
    three = boxes_of([2.0, 2, 9, 9], [50.0, 4, 60, 10])
    asked = step(memory, seen([2.0, 2, 10, 10], BOXES[1], [50.0, 4, 60, 10]), three, [0, 2])
    expected = torch.stack([three.points[0].flatten(), enlarged(BOXES[1], 0.15), three.points[1].flatten()])
    torch.testing.assert_close(asked.points.flatten(1), expected)
    assert len(memory) == 3 and not memory.velocity.any()
    assert memory.box.tolist() == [[2.0, 2, 10, 10], BOXES[1], [50.0, 4, 60, 10]]


def test_points_and_masks_of_a_prompt_stay_what_they_are():
    memory = memory_of(*BOXES)
    points, labels = torch.tensor([[[3.0, 4], [5, 6], [7, 8]]]), torch.tensor([[1, 0, 1]])
    given = PromptBatch(points, labels, torch.ones(1, 1, CELLS, CELLS), torch.tensor([True]))
    asked = memory.ask(given, [1])
    assert torch.equal(asked.points[1], points[0]) and torch.equal(asked.labels[1], labels[0])
    assert asked.labels[0].tolist() == [2, 3, -1]
    assert asked.has_mask.tolist() == [False, True] and asked.masks.flatten(1).sum(1).tolist() == [0, CELLS**2]


def test_kept_and_restored(tmp_path):
    memory = memory_of([8.0, 20, 16, 30], *BOXES)
    step(memory, seen([12.0, 20, 20, 30], None, BOXES[1]))
    memory.keep([2, 0])
    assert memory.box.tolist() == [BOXES[1], [12.0, 20, 20, 30]] and memory.missing.tolist() == [0, 0]
    save_file(memory.tensors(), tmp_path / "memory")
    other = PromptMemory(SIZE, CELLS)
    other.restore(load_file(tmp_path / "memory"))
    for _ in range(3):
        now = seen([16.0, 20, 24, 30], None)
        one, two = step(memory, now), step(other, now)
        assert torch.equal(one.points, two.points)
    assert all(torch.equal(value, other.tensors()[name]) for name, value in memory.tensors().items())
    with pytest.raises(PamKitError, match="has the tensors box, size, velocity, missing, look, not box"):
        other.restore({"box": memory.box})
    with pytest.raises(PamKitError, match="cannot keep"):
        memory.keep([0, 0])


class BrightThings(TimmSam):
    """Shows all that is bright, if the box that it is asked for holds any of it; else there is no object."""

    def segment(self, features, image_index, prompts):
        regions = super().segment(features, image_index, prompts)
        bright = features.high_resolution[0]
        for row, prompt in enumerate(prompts.points[:, :2].flatten(1)):
            x1, y1, x2, y2 = (prompt * bright.shape[-1] / SIZE).tolist()
            inside = torch.zeros_like(bright[0])
            inside[:, round(y1) : round(y2), round(x1) : round(x2)] = 1
            found = bool((bright[0] * inside).any())
            regions.mask_logits[row] = bright[0] * found * 10 - 5
            regions.object_score[row] = 1 if found else -1
        return regions

    def encode(self, images):
        features = super().encode(images)
        # The width that the mask decoder adds this to; the first channel is all that segment above reads.
        bright = (images[:, :1, ::4, ::4] > 200).float()
        return ImageFeatures(features.embedding, (bright, *features.high_resolution[1:]))


def small(kind=TimmSam, **arguments) -> TimmSam:
    torch.manual_seed(0)
    chosen = dict(model_name="test_byobnet", image_size=SIZE, embed_dim=32, decoder_depth=1, decoder_heads=2)
    return kind(**chosen, decoder_mlp_dim=32, track=True, **arguments).eval()


def scene(length: int) -> list[torch.Tensor]:
    """A bright square of 16 pixels that runs behind a bar, turns, and comes back."""
    frames = torch.full((length, 3, SIZE, SIZE), 20, dtype=torch.uint8)
    for index, frame in enumerate(frames):
        x = 4 * min(index, 14 - index)
        frame[:, 24:40, x : x + 16] = 255
        frame[:, :, 28:44] = 60
    return list(frames)


def test_an_object_is_followed_lost_and_found_again():
    backbone = small(BrightThings)
    with torch.no_grad():
        shown = list(backbone.track(scene(15), pointing(backbone, [0.0, 24, 16, 40])))
    masks = torch.stack([(regions.mask_logits[0, 0] > 0) for regions in shown])
    visible = torch.stack([frame[0, ::4, ::4] > 200 for frame in scene(15)])
    there = visible.flatten(1).any(1)
    assert there.tolist() == [True] * 7 + [False] + [True] * 7
    assert torch.equal(masks, visible)
    assert all((r.mask_logits == -1024).all() == (not t) for r, t in zip(shown, there, strict=True))


def pointing(backbone: TimmSam, *boxes) -> PromptBatch:
    cells = 4 * backbone.grid[0]
    prompts = boxes_of(*boxes)
    prompts.masks = torch.zeros(len(boxes), 1, cells, cells)
    return prompts


def noise(length: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return list(torch.randint(0, 256, (length, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator))


def test_regions_are_followed_each_by_itself_and_encoded_once():
    backbone, calls = small(), []
    backbone.extractor.register_forward_hook(lambda *_: calls.append(1))
    together = list(backbone.track(noise(4), pointing(backbone, *BOXES)))
    assert len(calls) == 4
    for row, box in enumerate(BOXES):
        for one, alone in zip(together, backbone.track(noise(4), pointing(backbone, box)), strict=True):
            torch.testing.assert_close(one.candidate_logits[row], alone.candidate_logits[0], atol=1e-4, rtol=1e-4)


def test_the_first_frame_is_that_of_an_image_and_no_region_is_legal():
    backbone, frames = small(), noise(2)
    prompts = pointing(backbone, *BOXES)
    image = backbone.segment(backbone.encode(frames[0][None]), torch.zeros(2, dtype=torch.long), prompts)
    first = next(backbone.track(frames, prompts))
    assert all(torch.equal(value, getattr(first, name)) for name, value in tensors_of(image).items())
    memory = backbone.new_memory()
    for frame in frames:
        assert backbone.observe(backbone.encode(frame[None]), memory).mask_logits.shape == (0, 1, 16, 16)
    assert len(memory) == 0 and len(no_prompts(0, backbone.encode(frames[0][None]))) == 0


def test_the_score_decides_whether_a_followed_object_is_there():
    backbone = small(score_objects=True)
    for sign in (-1, 1):
        torch.nn.init.constant_(backbone.mask_decoder.pred_obj_score_head.layers[-1].bias, sign * 1e3)
        first, *later = backbone.track(noise(3), pointing(backbone, *BOXES))
        assert not (first.mask_logits == -1024).any()
        assert all((regions.mask_logits == -1024).all() == (sign < 0) for regions in later)
        assert all((regions.object_score > 0).all() == (sign > 0) for regions in later)


def test_every_frame_learns_but_not_through_the_memory():
    backbone = small(score_objects=True).train()
    memory = backbone.new_memory()
    frames = [frame[None] for frame in noise(3)]
    for index, frame in enumerate(frames):
        features = backbone.encode(frame)
        prompts, rows = (pointing(backbone, *BOXES), range(2)) if index == 0 else (None, ())
        regions = backbone.observe(features, memory, prompts, rows)
        backbone.zero_grad()
        # A graph that reached into an earlier frame would be gone by now.
        (regions.candidate_logits.sum() + regions.object_score.sum() + regions.candidate_iou.sum()).backward()
        assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)
        assert not any(tensor.requires_grad for tensor in memory.tensors().values())
    with torch.no_grad():
        assert not backbone.observe(backbone.encode(frames[0]), memory).mask_logits.requires_grad


def test_a_stream_goes_on_from_a_restored_memory_to_the_last_bit():
    backbone, frames = small(), noise(6)
    memory, other = backbone.new_memory(), backbone.new_memory()
    for index, frame in enumerate(islice(frames, 3)):
        given = (pointing(backbone, *BOXES), range(2)) if index == 0 else (None, ())
        backbone.observe(backbone.encode(frame[None]), memory, *given)
    other.restore(memory.tensors())
    for frame in frames[3:]:
        one, two = (backbone.observe(backbone.encode(frame[None]), each) for each in (memory, other))
        assert all(torch.equal(value, getattr(two, name)) for name, value in tensors_of(one).items())


def test_without_track_it_is_refused():
    backbone = TimmSam(model_name="test_byobnet", embed_dim=32, decoder_mlp_dim=32)
    assert not backbone.tracks
    with pytest.raises(PamKitError, match="TimmSam cannot follow.*backbone.track=true"):
        next(backbone.track(noise(1), boxes_of()))
    with pytest.raises(PamKitError, match="call new_memory"):
        backbone.observe(backbone.encode(torch.zeros(1, 3, 128, 128, dtype=torch.uint8)), None)


class BrightInside(BrightThings):
    """Shows what is bright inside the box that it is asked for."""

    def segment(self, features, image_index, prompts):
        regions = super().segment(features, image_index, prompts)
        bright = features.high_resolution[0]
        for row, prompt in enumerate(prompts.points[:, :2].flatten(1)):
            x1, y1, x2, y2 = (prompt * bright.shape[-1] / SIZE).round().int().tolist()
            inside = torch.zeros_like(bright[0])
            inside[:, y1:y2, x1:x2] = bright[0][:, y1:y2, x1:x2]
            regions.mask_logits[row] = inside * 10 - 5
            regions.object_score[row] = 1 if inside.any() else -1
        return regions


@pytest.mark.parametrize("there", [True, False])
def test_an_object_that_jumps_is_found_by_its_looks(there):
    """A white square jumps to the right; where it is gone instead, a red one that appears on the left is not taken."""
    frames = torch.full((2, 3, SIZE, SIZE), 20, dtype=torch.uint8)
    frames[0, :, 24:40, 24:40] = 255
    frames[1, 0, 24:40, 8:24] = 255
    if there:
        frames[1, :, 24:40, 40:56] = 255
    backbone = small(BrightInside)
    with torch.no_grad():
        _, second = backbone.track(list(frames), pointing(backbone, [24.0, 24, 40, 40]))
    mask = second.mask_logits[0, 0] > 0
    expected = torch.zeros_like(mask)
    if there:
        expected[6:10, 10:14] = True
    assert torch.equal(mask, expected) and bool(second.object_score[0] > 0) == there
