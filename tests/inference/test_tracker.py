"""Whole videos: both directions, several objects and prompts, which frames are read, and what is refused."""

import gc

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from pam_kit.contracts import RegionPrompt
from pam_kit.data.clips import sampled_frames
from pam_kit.data.video import open_video
from pam_kit.errors import PromptError
from pam_kit.geometry import mask_iou
from pam_kit.inference.frame_choice import ChangingFrames, frame_choice
from pam_kit.inference.stream_records import StreamSettings
from pam_kit.inference.streamer import RegionStream
from pam_kit.inference.tracker import VideoPredictor
from pam_kit.inference.video_result import FramePrompt, prompts_by_frame

BOX = RegionPrompt(box=(4, 10, 24, 30))
OTHER = RegionPrompt(points=((60, 20),), labels=(1,))
SIZE = (48, 80)


@pytest.fixture(scope="module")
def predictor(video_model):
    return VideoPredictor(video_model)


def predicted(predictor, video, prompts, **asked):
    return predictor.predict(video, prompts, **{"max_new_tokens": 2, **asked})


def masks(region) -> list[np.ndarray]:
    return [frame.mask(SIZE) for frame in region.frames]


def streamed(model, frames, prompts: dict[int, RegionPrompt]) -> list[np.ndarray]:
    """Masks of one region that is pointed at in the frames of these numbers."""
    stream, found = RegionStream(model, StreamSettings(read_every=100.0)), []
    for index, frame in enumerate(frames):
        if index in prompts:
            stream.prompt(prompts[index], 1)
        report = stream.push(frame)
        found += [seen.mask() for seen in report.regions.values()]
    return found


def test_the_tokens_of_a_region_do_not_hold_those_of_others(predictor, moving_square, monkeypatch):
    held, texts = [], predictor._texts
    monkeypatch.setattr(predictor, "_texts", lambda followed, *rest: (held.extend(followed), texts(followed, *rest))[1])
    predicted(predictor, moving_square(3), [FramePrompt(1, 0, BOX), FramePrompt(2, 0, OTHER)])
    kept = [part for one in held for tokens in one.tokens.values() for part in (tokens.visual, tokens.semantic)]
    assert len(kept) == 2 * 3 * 2
    assert all(tokens.untyped_storage().nbytes() == tokens.nbytes for tokens in kept)


def test_a_video_is_followed_both_ways_from_the_prompt(predictor, video_model, moving_square):
    frames = moving_square(8)
    found = predicted(predictor, frames, [FramePrompt(1, 3, BOX)]).regions[0]
    ahead = streamed(video_model, frames[3:], {0: BOX})
    back = streamed(video_model, frames[3::-1], {0: BOX})
    np.testing.assert_array_equal(masks(found), [*back[:0:-1], *ahead])
    assert [frame.index for frame in found.frames] == list(range(8))
    assert found.read_frames == [3, 0, 1, 2, 4, 5, 6, 7]  # the prompted one first, as in a clip


def test_objects_of_several_frames_go_through_together(predictor, video_model, moving_square, monkeypatch):
    """Each as it would be alone, and every frame encoded once a direction."""
    frames, encoded, encode = moving_square(7), [], video_model.backbone.encode
    prompts = [FramePrompt(5, 4, OTHER), FramePrompt(2, 2, BOX), FramePrompt(2, 5, OTHER)]
    alone = [predicted(predictor, frames, [p for p in prompts if p.region == n]).regions[0] for n in (2, 5)]
    monkeypatch.setattr(video_model.backbone, "encode", lambda images: (encoded.append(1), encode(images))[1])
    found = predicted(predictor, frames, prompts)
    assert len(encoded) == 5 + 5  # from frame 2 ahead, from frame 4 back
    assert [region.region for region in found.regions] == [2, 5]
    for one, other in zip(found.regions, alone, strict=True):
        different = sum(
            1 - mask_iou(a, b) if (a | b).any() else 0 for a, b in zip(masks(one), masks(other), strict=True)
        )
        assert different < 0.02  # a pixel at an edge, where batches sum otherwise
        assert one.read_frames == other.read_frames and one.texts["caption"]["en"].text == (
            other.texts["caption"]["en"].text
        )


def test_a_later_prompt_corrects_from_there_on(predictor, video_model, moving_square):
    frames = moving_square(7)
    found = predicted(predictor, frames, [FramePrompt(1, 5, OTHER), FramePrompt(1, 2, BOX)]).regions[0]
    ahead = streamed(video_model, frames[2:], {0: BOX, 3: OTHER})
    back = streamed(video_model, frames[2::-1], {0: BOX})
    np.testing.assert_array_equal(masks(found), [*back[:0:-1], *ahead])
    assert [(one.frame, one.prompt) for one in found.prompts] == [(2, BOX), (5, OTHER)]


def test_prompts_of_a_region_in_a_frame_are_one(predictor, moving_square):
    frames, point = moving_square(3), RegionPrompt(points=((30, 40),), labels=(0,))
    both = RegionPrompt(box=BOX.box, points=point.points, labels=point.labels)
    found = predicted(predictor, frames, [FramePrompt(1, 0, BOX), FramePrompt(1, 0, point)])
    expected = predicted(predictor, frames, [FramePrompt(1, 0, both)])
    assert found.regions[0].to_json()["frames"] == expected.regions[0].to_json()["frames"]
    assert found.regions[0].to_json()["prompts"] == [
        {"frame": 0, "box": [4, 10, 24, 30], "points": [[30, 40]], "labels": [0]}
    ]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "nothing to look at: give at least one prompt"),
        (
            [FramePrompt(4, 6, BOX)],
            "region 4 is pointed at in frame 6 of a video of 4 frames; frames are numbered 0 to 3",
        ),
        ([FramePrompt(1, -1, BOX)], "region 1 is pointed at in frame -1"),
        (
            [FramePrompt(1, 0, BOX), FramePrompt(7, 2, RegionPrompt(box=(0, 0, 99, 9)))],
            "region 7, pointed at in frame 2: box (0, 0, 99, 9) does not fit a picture of 80x48 pixels",
        ),
        (
            [FramePrompt(3, 1, BOX), FramePrompt(3, 1, BOX)],
            "region 3, pointed at in frame 1: one region has at most one box and one mask; it got 2 boxes and 0 masks",
        ),
        ([FramePrompt(1, 0, RegionPrompt(points=((3, 3),), labels=(0,)))], "only negative points"),
    ],
)
def test_prompts_are_refused_before_anything_is_computed(predictor, moving_square, monkeypatch, prompts, message):
    monkeypatch.setattr(predictor.model.backbone, "encode", lambda images: pytest.fail("encoded"))
    with pytest.raises(PromptError) as refused:
        predicted(predictor, moving_square(4), prompts)
    assert message in str(refused.value)


def test_json_holds_a_mask_a_frame(predictor, moving_square, hidden):
    hidden({2, 3})
    video = predicted(predictor, moving_square(6), [FramePrompt(1, 0, BOX)], languages=("zh",))
    told = video.to_json()
    assert (told["width"], told["height"], told["num_frames"], told["damage"]) == (80, 48, 6, None)
    region = told["regions"][0]
    for frame, kept in zip(region["frames"], video.regions[0].frames, strict=True):
        if frame["frame"] in (2, 3):
            assert frame["segmentation"] is None and frame["area"] == 0 and frame["box"] is None
            assert not kept.mask(SIZE).any() and frame["object_score"] < 0.01
        else:
            mask = coco_mask.decode(frame["segmentation"])
            assert mask.shape == SIZE and mask.sum() == frame["area"] > 0
            x1, y1, x2, y2 = map(int, frame["box"])
            assert mask[y1:y2, x1:x2].sum() == frame["area"]
    states = [(change["state"], change["frame"]) for change in region["transitions"]]
    assert states == [("present", 0), ("occluded", 2), ("found", 4)]
    assert region["out_of_sight"] == [[pytest.approx(2 / 30), pytest.approx(4 / 30)]] and region["ever_seen"]
    assert set(told["latency_ms"]) == {"encode", "track", "perceive", "project", "decode"}
    assert list(region["texts"]["caption"]) == ["zh"]


@pytest.mark.parametrize("score_only", [False, True])
def test_an_object_that_is_never_there(predictor, moving_square, hidden, score_only):
    """Nothing is said of it, also where a mask is drawn because it is pointed at."""
    hidden(set(range(100)), score_only)
    region = predicted(predictor, moving_square(4), [FramePrompt(1, 2, BOX)]).regions[0].to_json()
    assert not region["ever_seen"] and region["out_of_sight"] == [[0, pytest.approx(0.1)]]
    assert region["transitions"] == [{"state": "lost", "time": 0.0, "frame": 0, "never_seen": True}]
    assert region["texts"] == {} and not any(frame["in_sight"] for frame in region["frames"])
    assert (region["frames"][2]["segmentation"] is not None) == score_only
    assert score_only or all(frame["segmentation"] is None for frame in region["frames"])


def test_of_several_objects_those_that_are_there_are_spoken_of(predictor, moving_square, monkeypatch):
    """The texts go to the regions they are about."""
    frames, prompts = moving_square(3), [FramePrompt(1, 0, BOX), FramePrompt(2, 0, OTHER)]
    expected = predicted(predictor, frames, prompts).regions[1].texts["caption"]["en"].text
    observe = predictor.model.backbone.observe

    def observed(*arguments, **keywords):
        regions = observe(*arguments, **keywords)
        regions.object_score = regions.object_score.clone()
        regions.object_score[0] = -9
        return regions

    monkeypatch.setattr(predictor.model.backbone, "observe", observed)
    one, other = predicted(predictor, frames, prompts).regions
    assert not one.ever_seen and one.texts == {} and other.ever_seen
    assert other.texts["caption"]["en"].text == expected


def test_a_source_that_was_opened_stays_open(predictor, moving_square):
    with open_video(moving_square(3)) as video:
        predicted(predictor, video, [FramePrompt(1, 0, BOX)])
        assert len(list(video.frames())) == 3


@pytest.mark.parametrize("prompted", [0, 4, 9])
def test_frames_that_are_read(predictor, moving_square, prompted):
    frames = moving_square(10)
    even = predicted(predictor, frames, [FramePrompt(1, prompted, BOX)], frames=4).regions[0]
    assert even.read_frames[0] == prompted and len(set(even.read_frames)) == 4
    assert prompted or even.read_frames == sampled_frames(10, 4)  # the released PAM's
    every = predicted(predictor, frames, [FramePrompt(1, prompted, BOX)], frames=4, sampler="all").regions[0]
    assert sorted(every.read_frames) == list(range(10)) and every.read_frames[0] == prompted
    changing = predicted(predictor, frames, [FramePrompt(1, prompted, BOX)], frames=4, sampler="mask_change").regions[0]
    shown = masks(changing)
    change = {
        index: 1 - mask_iou(shown[index], shown[index + (1 if index < prompted else -1)])
        for index in range(10)
        if index != prompted
    }
    chosen = set(changing.read_frames[1:])
    assert len(chosen) == 3 and changing.read_frames[1:] == sorted(chosen)
    # By the coarse masks, which may differ a little from those that are shown.
    assert min(change[index] for index in chosen) > max(change[i] for i in change if i not in chosen) - 0.1


def test_changing_frames_of_a_known_story():
    """A bar that jumps at two frames: those are read, and the tokens of at most as many frames are ever kept."""
    places = [0, 0, 1, 8, 8, 9, 9, 2, 2]
    shown = [np.zeros((4, 16), bool) for _ in places]
    for mask, place in zip(shown, places, strict=True):
        mask[:, place : place + 6] = True
    choice, kept = ChangingFrames(3, prompted=0), set()
    for index, mask in enumerate(shown):
        chosen, dropped = choice.offer(index, mask)
        kept = (kept - {dropped}) | ({index} if chosen else set())
        assert len(kept) <= 3
    assert kept == {0, 3, 7}
    assert ChangingFrames(1, prompted=2).offer(3, shown[0]) == (False, None)


@pytest.mark.parametrize(
    ("sampler", "count", "wanted", "message"),
    [
        ("random", 4, 2, "unknown frame sampler 'random'; choose from uniform, all, mask_change"),
        ("uniform", 4, 0, "0 frames of a video of 4 are to be read; both must be at least 1"),
        ("all", 0, 3, "3 frames of a video of 0"),
    ],
)
def test_frame_choices_that_cannot_be_are_refused(sampler, count, wanted, message):
    with pytest.raises(PromptError) as refused:
        frame_choice(sampler, count, wanted, 0)
    assert message in str(refused.value)


def test_prompts_are_ordered_by_frame_and_region():
    prompts = [FramePrompt(3, 9, BOX), FramePrompt(2, 1, OTHER), FramePrompt(1, 9, OTHER)]
    found = prompts_by_frame(prompts, 80, 48)
    assert [(frame, list(regions)) for frame, regions in found.items()] == [(1, [2]), (9, [1, 3])]
    assert found[9][3] == BOX and prompts_by_frame([], 80, 48) == {}


def test_no_frame_keeps_its_features(predictor, moving_square, monkeypatch):
    """Of a frame that was passed there are run-length codes and, where it is read, tokens."""
    sizes, passed, observe = [], iter(range(100)), predictor.model.backbone.observe

    def observed(*arguments, **keywords):
        if next(passed) in (20, 29):
            gc.collect()
            sizes.append(sum(one.numel() for one in gc.get_objects() if type(one) is torch.Tensor))
        return observe(*arguments, **keywords)

    monkeypatch.setattr(predictor.model.backbone, "observe", observed)
    predicted(predictor, moving_square(30), [FramePrompt(1, 0, BOX)], frames=2)
    # One embedding of the nine frames between would be 256 x 4 x 4.
    assert abs(sizes[1] - sizes[0]) < 9 * 256 * 16, sizes
