"""Moving micro scenes as datasets: determinism, exact masks, continuity, what a clip opens with, errors."""

import hashlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from pam_kit.contracts import ClipSample, VideoSample
from pam_kit.data.check import check_dataset
from pam_kit.data.clip_dataset import ClipDataset
from pam_kit.data.micro.dataset import MicroDataset
from pam_kit.data.micro.video_dataset import MicroClips, MicroVideos
from pam_kit.data.micro.video_language import EVENT_ATTRIBUTES, EVENTS
from pam_kit.data.micro.video_scene import MovingScene, make_moving_scene
from pam_kit.data.schema import has_clips, has_videos
from pam_kit.errors import PamKitError
from pam_kit.registry import find
from pam_kit.tasks import LANGUAGES

GREY = np.full((3, 128, 128), 128, np.float32)


def digest(sample: VideoSample | ClipSample) -> str:
    parts = [frame.tobytes() for frame in sample.frames]
    for region in sample.regions:
        if isinstance(sample, ClipSample):
            parts += [region.mask.tobytes(), repr((region.texts, region.attributes, sample.history)).encode()]
        else:
            parts += [mask.tobytes() for mask in region.masks]
            parts.append(repr((region.id, region.frame, region.events, region.attributes)).encode())
    return hashlib.sha256(b"".join(parts)).hexdigest()


def scenes(count=12, side=128, steps=6, events=3, objects=(3, 5)):
    for number in range(count):
        yield make_moving_scene(np.random.default_rng([21, number]), GREY[:, :side, :side], events, steps, *objects)


@pytest.mark.parametrize(("name", "cls"), [("micro_videos", MicroVideos), ("micro_clips", MicroClips)])
def test_they_are_registered_with_documented_arguments(name, cls):
    spec = find("dataset", name)
    assert spec.load() is cls
    assert all(parameter.doc for parameter in spec.parameters)


def test_a_dataset_says_what_it_holds():
    assert [has_videos(cls) for cls in (MicroVideos, MicroClips, MicroDataset, ClipDataset)] == [True] + 3 * [False]
    assert [has_clips(cls) for cls in (MicroVideos, MicroClips, MicroDataset)] == [False, True, False]
    assert has_videos(MicroVideos(num_samples=1)) and not has_videos(MicroClips(num_samples=1))


@pytest.mark.parametrize("cls", [MicroVideos, MicroClips])
def test_samples_depend_on_seed_and_index_alone(cls):
    one, other = cls(num_samples=50, seed=3), cls(num_samples=500, seed=3)
    forward = [digest(one[i]) for i in range(7)]
    backward = [digest(other[i]) for i in reversed(range(7))]
    assert forward == backward[::-1]
    assert len(set(forward)) == 7
    assert digest(cls(seed=4)[0]) != forward[0]


def test_another_process_draws_the_same_videos():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_micro_videos import MicroClips, MicroVideos, digest\n"
        "print(digest(MicroVideos(seed=3)[7]), digest(MicroClips(seed=3)[5]))"
    )
    folder = __file__.rpartition("/")[0]
    printed = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True).stdout
    assert printed.split() == [digest(MicroVideos(seed=3)[7]), digest(MicroClips(seed=3)[5])]


@pytest.mark.parametrize(("side", "events", "steps"), [(64, 1, 4), (128, 3, 6), (320, 5, 16)])
def test_videos_fit_the_contract(side, events, steps):
    dataset = MicroVideos(image_size=side, events_per_video=events, frames_per_event=steps)
    for sample in (dataset[i] for i in range(3)):
        assert sample.source and sample.frame_rate == 4.0
        assert len(sample.frames) == events * steps
        for frame in sample.frames:
            assert frame.shape == (side, side, 3) and frame.dtype == np.uint8
        assert 1 <= len(sample.regions) <= 2 and len({region.id for region in sample.regions}) == len(sample.regions)
        for region in sample.regions:
            assert len(region.masks) == len(sample.frames) and region.prompt is None
            assert all(mask.shape == (side, side) and mask.dtype == bool for mask in region.masks)
            assert region.masks[region.frame].sum() > 0.002 * side * side
            edges = [(event.first, event.last) for event in region.events]
            assert edges == [(i * steps, (i + 1) * steps - 1) for i in range(events)]


def test_events_are_told_in_both_languages_as_their_attributes_say():
    dataset = MicroVideos(seed=5)
    for region in (region for i in range(25) for region in dataset[i].regions):
        colour = region.attributes["colour"]
        for event in region.events:
            assert event.attributes["label"] == region.attributes["label"]
            assert event.attributes.get("old_colour", event.attributes["colour"]) == colour
            colour = event.attributes["colour"]
            for language in LANGUAGES:
                text = event.texts["caption"][language]
                read = {name: dataset.read_attribute(text, name, language) for name in EVENT_ATTRIBUTES}
                assert {name: value for name, value in read.items() if value is not None} == event.attributes


def test_a_mask_is_where_frames_change_when_the_object_is_taken_away():
    """But for a rim of less than half covered pixels: around it, at its tips, and where it shines through the rim of
    what covers it."""
    seen = 0
    for scene in scenes(14):
        for number in range(len(scene.actors)):
            others = [actor for i, actor in enumerate(scene.actors) if i != number]
            without = MovingScene(others, scene.bystanders, scene.cover, scene.steps, GREY)
            for frame in range(scene.num_frames):
                mask = scene.mask(frame, number)
                changes = np.abs(scene.draw(frame).astype(int) - without.draw(frame)).max(axis=2)
                elsewhere = changes[~grown(mask)]
                assert (elsewhere > 0).sum() <= 12 and elsewhere.max() < 64
                assert (changes[mask] > 0).mean() > 0.97 if mask.any() else True
                seen += mask.any()
    assert seen > 200


def grown(mask: np.ndarray) -> np.ndarray:
    """The mask and its neighbouring pixels."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.any([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)


def test_half_covered_pixels_and_more_are_in_the_mask():
    """The opacity of an object is how much less of a black and a white background differs where it is."""
    for scene in scenes(8):
        for number, actor in enumerate(scene.actors):
            alone = [MovingScene([actor], [], None, scene.steps, np.full_like(GREY, value)) for value in (0, 255)]
            for frame in range(0, scene.num_frames, 4):
                black, white = (one.draw(frame).astype(int) for one in alone)
                opacity = 1 - (white - black).mean(axis=2) / 255
                mask = alone[0].mask(frame, 0)
                assert (opacity[mask] > 0.49).all() and (opacity[~mask] < 0.51).all()
                assert not (scene.mask(frame, number) & ~mask).any()


def test_bystanders_and_background_never_change():
    for scene in scenes(4):
        moving = np.zeros((128, 128), bool)
        for frame in range(scene.num_frames):
            moving |= grown(scene.ids(frame) >= 0)
        frames = np.stack([scene.draw(frame) for frame in range(scene.num_frames)])
        assert moving.mean() < 0.9
        assert (frames == frames[0]).all(axis=(0, 3))[~moving].mean() > 0.998


def middle(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()])


@pytest.mark.parametrize(("side", "steps"), [(64, 4), (128, 6)])
def test_masks_do_what_the_events_say(side, steps):
    """Judged by pixels alone, in videos of one moving object."""
    seen = Counter()
    dataset = MicroVideos(seed=6, image_size=side, frames_per_event=steps, max_objects=3)
    for sample in (dataset[i] for i in range(70)):
        if len(sample.regions) > 1:
            continue
        masks = sample.regions[0].masks
        for event in sample.regions[0].events:
            name, last = event.attributes["event"], masks[event.last]
            first = masks[event.first - 1] if event.first else masks[0]
            seen[name] += 1
            assert last.any() == (name not in ("hides", "leaves"))
            assert first.any() == (name != "returns")
            ratio = last.sum() / max(1, first.sum())
            if name == "moves":
                way = (middle(last) - middle(first)) / side
                sign = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[event.attributes["direction"]]
                assert way @ sign > 1 / 4 and abs(way @ sign[::-1]) < 0.02
            elif name in ("grows", "shrinks") and event.first:
                assert 2.2 < (ratio if name == "grows" else 1 / ratio) < 4.5
            elif name in ("stays", "turns"):
                assert all(np.array_equal(first, masks[frame]) for frame in range(event.first, event.last + 1))
            elif name == "spins":
                assert 0.9 < ratio < 1.1
            elif name == "leaves":
                way = [masks[frame] for frame in range(event.first, event.last) if masks[frame].any()][-1]
                assert way[[0, -1]].any() or way[:, [0, -1]].any()
    assert set(seen) == set(EVENTS)


def test_a_new_colour_is_there_in_the_first_frame_of_its_event():
    dataset, changed = MicroVideos(seed=9), 0
    for sample in (dataset[i] for i in range(30)):
        for region in sample.regions:
            for event in region.events:
                if event.attributes["event"] != "turns":
                    continue
                frames = [sample.frames[i][region.masks[i]] for i in (event.first - 1, event.first, event.last)]
                if min(len(pixels) for pixels in frames) < 100:
                    continue  # something passes in front
                before, first, last = (np.median(pixels, axis=0) for pixels in frames)
                changed += 1
                assert np.abs(first - before).max() > 40 > np.abs(first - last).max()
    assert changed > 5


def test_objects_that_move_have_look_alikes_and_never_look_the_same():
    kinds, colours, videos = 0, 0, 0
    for scene in scenes(60, side=64):
        still = [(item.kind, item.colour) for item in scene.bystanders]
        if scene.cover is not None:
            still.append((scene.cover.kind, scene.cover.colour))
        worn = [
            {(a.look.kind, act.start.colour) for act in a.acts} | {(a.look.kind, a.acts[-1].end.colour)}
            for a in scene.actors
        ]
        assert not any(look in looks for look in still for looks in worn)
        assert len(worn) == 1 or not worn[0] & worn[1]
        looks = [(a.look.kind, a.look.colour) for a in scene.actors] + [(b.kind, b.colour) for b in scene.bystanders]
        kind, colour = looks[0]
        videos += 1
        kinds += any(k == kind for k, _ in looks[1:])
        colours += any(c == colour for _, c in looks[1:])
    assert kinds / videos > 0.6 and colours / videos > 0.5


def test_clips_are_the_events_of_the_videos():
    videos, clips = MicroVideos(num_samples=8, seed=2), MicroClips(num_samples=24, seed=2)
    pairs = 0
    for index in range(24):
        video, clip = videos[index // 3], clips[index]
        event, region = video.regions[0].events[index % 3], clip.regions[0]
        own = video.frames[event.first : event.last + 1]
        assert np.array_equal(np.stack(clip.frames[-len(own) :]), np.stack(own))
        assert region.texts == event.texts and region.prompt is None
        assert region.attributes == event.attributes | {"carried": region.attributes["carried"]}
        opening = next(i for i, frame in enumerate(video.frames) if np.array_equal(frame, clip.frames[0]))
        assert opening <= event.first
        if event.attributes["event"] != "returns":
            assert len(clip.frames) == 6 + region.attributes["carried"]
        if clip.history:
            assert clip.history == video.regions[0].events[index % 3 - 1].texts["caption"]
            pairs += 1
        if region.attributes["carried"]:
            assert any(np.array_equal(video.frames[event.first - 1], frame) for frame in clip.frames[:2])
    assert pairs > 4


def test_the_region_is_in_sight_where_a_clip_begins():
    for steps, events in ((4, 3), (6, 4)):
        clips = MicroClips(seed=8, frames_per_event=steps, events_per_video=events, image_size=64)
        lengths = Counter()
        for clip in (clips[i] for i in range(150)):
            region = clip.regions[0]
            assert region.mask.sum() > 0.003 * 64 * 64
            extra = len(clip.frames) - steps
            lengths[region.attributes["event"] == "returns", region.attributes["carried"], extra] += 1
            assert extra - region.attributes["carried"] in ((0, 1) if region.attributes["event"] == "returns" else (0,))
        assert lengths[True, True, 2] and lengths[True, False, 1] and lengths[False, False, 0]


def test_carry_and_history_come_as_often_as_asked_and_never_first():
    clips = MicroClips(seed=1, carry=0.3, history=0.8, image_size=64, events_per_video=4, frames_per_event=4)
    drawn = [clips[i] for i in range(240)]
    for first in drawn[::4]:
        assert not first.history and not first.regions[0].attributes["carried"] and len(first.frames) == 4
    later = [clip for i, clip in enumerate(drawn) if i % 4]
    carried = np.array([clip.regions[0].attributes["carried"] for clip in later])
    told = np.array([bool(clip.history) for clip in later])
    assert abs(carried.mean() - 0.3) < 0.1 and abs(told.mean() - 0.8) < 0.1
    assert abs((carried & told).mean() - 0.24) < 0.1


def test_carry_and_history_can_be_had_always_and_never():
    for share in (0.0, 1.0):
        clips = MicroClips(seed=1, carry=share, history=share, image_size=64)
        for i in range(12):
            applies = bool(share) and i % 3 > 0
            assert clips[i].regions[0].attributes["carried"] == bool(clips[i].history) == applies


def test_texts_hold_every_word_of_the_samples():
    texts = list(MicroVideos().texts())
    assert texts == list(MicroClips(seed=5).texts())
    characters, words = set("".join(texts)), {word for text in texts for word in text.split()}
    for clip in (MicroClips(seed=8, image_size=64)[i] for i in range(40)):
        for by_language in (*clip.regions[0].texts.values(), clip.history):
            assert set(by_language.get("en", "").split()) <= words
            assert set(by_language.get("zh", "")) <= characters


def test_the_check_of_datasets_reads_them():
    report = check_dataset(MicroVideos(num_samples=4, image_size=64))
    assert report.videos == 4 and report.regions == report.masks and 4 <= report.regions <= 8
    assert report.texts == {("caption", language): 3 * report.regions for language in LANGUAGES}
    assert report.lines()[0].startswith("4 videos, ")
    report = check_dataset(MicroClips(num_samples=4, image_size=64))
    assert (report.clips, report.regions, report.masks) == (4, 4, 4)
    assert not report.broken and not report.tiny_masks


@pytest.mark.parametrize(
    ("cls", "arguments", "words"),
    [
        (MicroVideos, {"num_samples": 0}, "num_samples is 0"),
        (MicroVideos, {"seed": -1}, "seed is -1"),
        (MicroVideos, {"image_size": 32}, "expected 64 to 512"),
        (MicroVideos, {"backgrounds": "black"}, "choose procedural"),
        (MicroVideos, {"events_per_video": 0}, "events_per_video is 0"),
        (MicroVideos, {"frames_per_event": 3}, "expected 4 to 16"),
        (MicroVideos, {"min_objects": 4, "max_objects": 3}, "objects a video are 4 to 3"),
        (MicroClips, {"frames_per_event": 17}, "micro_clips dataset: frames_per_event is 17"),
        (MicroClips, {"carry": 1.5}, "carry is 1.5; expected 0 to 1"),
        (MicroClips, {"history": -0.1}, "history is -0.1; expected 0 to 1"),
        (MicroClips, {"only": []}, r"only is \[\]; expected some of moves, grows"),
        (MicroClips, {"only": ["turns", "jumps"]}, "only is .*jumps.*; expected some of"),
    ],
)
def test_wrong_arguments(cls, arguments, words):
    with pytest.raises(PamKitError, match=words):
        cls(**arguments)


def test_chosen_events_are_those_of_the_whole_in_its_order():
    options = {"seed": 5, "image_size": 64, "carry": 0.5, "history": 0.5}
    every = [MicroClips(num_samples=90, **options)[i] for i in range(90)]
    expected = [clip for clip in every if clip.regions[0].attributes["event"] in ("turns", "hides")]
    chosen = MicroClips(num_samples=len(expected), only=["hides", "turns"], **options)
    last = chosen[len(expected) - 1]  # asked for first: what is found does not depend on what was asked before
    assert [(clip.source, digest(clip)) for clip in chosen] == [(clip.source, digest(clip)) for clip in expected]
    assert len(expected) > 10 and digest(last) == digest(expected[-1])


def test_an_event_that_no_video_has_is_not_looked_for_for_ever(monkeypatch):
    monkeypatch.setattr("pam_kit.data.micro.video_dataset._FRUITLESS", 20)
    first = MicroClips(image_size=64, events_per_video=1, only=["turns"])
    with pytest.raises(
        PamKitError, match=r"none of 20 videos has an event of only=\['turns'\] with events_per_video=1"
    ):
        first[0]


@pytest.mark.parametrize(("fewest", "most"), [(1, 1), (8, 8)])
def test_long_videos_of_few_and_of_many_objects(fewest, most):
    for scene in scenes(6, side=64, steps=4, events=64, objects=(fewest, most)):
        assert scene.num_frames == 256 and len(scene.draw(255)) == 64
        assert 1 <= len(scene.actors) + len(scene.bystanders) <= most
        assert scene.in_sight(0, 0)


@pytest.mark.parametrize("cls", [MicroVideos, MicroClips])
def test_iteration_ends(cls):
    assert len(list(cls(num_samples=3, image_size=64))) == len(cls(num_samples=3)) == 3
    with pytest.raises(IndexError):
        cls(num_samples=3)[3]
