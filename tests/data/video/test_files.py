"""Video files against plain decoding from the start: every frame, from every place, in both directions."""

import itertools
import pickle
import weakref
from pathlib import Path

import av
import numpy as np
import pytest

from pam_kit.data.video import FileVideo, FrameReader, VideoError, open_video
from pam_kit.data.video.frames import REVERSE_CHUNK

REAL = sorted((Path(__file__).parents[4] / "shared" / "data" / "videos").glob("*.mp4"))
# Milliseconds, ever longer and uneven.
UNEVEN = [i * i * 7 + 40 * i for i in range(40)]
KINDS = {
    "b_frames": {},
    "no_b_frames": {"b_frames": 0},
    "open_gop": {"open_gop": True},
    "uneven": {"ticks": UNEVEN},
    "fragments": {"movflags": "frag_keyframe+empty_moov"},
    "matroska": {"name": "clip.mkv"},
    "transport": {"name": "clip.ts"},
    "avi": {"name": "clip.avi", "b_frames": 0, "clock": 10},
    "avi_b_frames": {"name": "clip.avi", "clock": 10},
    "flash": {"name": "clip.flv"},
    "late_matroska": {"name": "clip.mkv", "ticks": [3330 + 100 * i for i in range(40)]},
    "raw_stream": {"name": "clip.h264"},
}


def same(frames, expected, start: int = 0) -> bool:
    return all(
        frame.index == i and np.array_equal(frame.image, image) and frame.time == pytest.approx(seconds, abs=1e-6)
        for i, (frame, (image, seconds)) in enumerate(zip(frames, expected, strict=True), start)
    )


def test_the_videos_are_as_hard_as_they_should_be(make_video):
    def order(**kind) -> list[int]:
        with av.open(str(make_video(**kind))) as container:
            return [packet.pts for packet in container.demux(video=0) if packet.size]

    assert order(b_frames=0) == sorted(order(b_frames=0)) and order() != sorted(order())
    assert order(open_gop=True) != order(), "key frames that are stored before frames which are shown before them"


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"raw_stream", "avi_b_frames"}))
def test_every_frame_from_every_place(kind, make_video, plainly):
    path = make_video(**KINDS[kind])
    expected, video = plainly(path), open_video(path)
    assert len(expected) == 40
    assert (video.width, video.height, video.live, video.num_frames) == (64, 48, False, 40)
    assert same(video, expected) and same(video, expected), "each iteration begins anew"
    for start in range(40):
        assert same(video.frames(start, start + 2), expected[start : start + 2], start)
    assert same(itertools.islice(video.frames(17), 30), expected[17:], 17)
    assert video.damage is None


def test_a_stream_without_times_is_counted(make_video, plainly):
    """Raw H.264 does not say when its frames are shown, so nothing can be sought in it."""
    video = open_video(make_video(**KINDS["raw_stream"]))
    images = [frame.image for frame in video]
    assert len(images) == 40 == video.num_frames
    assert [frame.time for frame in video.frames(0, 3)] == pytest.approx(
        [0, 1 / video.frame_rate, 2 / video.frame_rate]
    )
    for start in (1, 13, 39):
        assert np.array_equal(next(video.frames(start)).image, images[start])


def test_an_avi_with_b_frames(make_video, plainly):
    """Its packets say when they are stored, which is not the order in which they are shown."""
    path = make_video(**KINDS["avi_b_frames"])
    told = [seconds for _, seconds in plainly(path)]
    assert told != sorted(told)
    expected = [(image, index / 10) for index, (image, _) in enumerate(plainly(path))]
    video = open_video(path)
    assert video.num_frames == 40 and same(video, expected) and video.damage is None
    for start in range(1, 40, 6):
        assert same(video.frames(start, start + 2), expected[start : start + 2], start)


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize(("suffix", "start"), [(".ts", 0.0), (".ts", 0.33), (".mkv", 1.13), (".mpg", 0.0)])
def test_joined_files_go_on_in_time(suffix, start, b_frames, make_joined, plainly):
    """The clock jumps back where the second file begins, whether or not it repeats times of the first one."""
    path = make_joined(suffix, start, b_frames=b_frames)
    expected = [(image, index / 10) for index, (image, _) in enumerate(plainly(path))]
    video = open_video(path)
    assert len(expected) == 32 == video.num_frames and video.damage is None
    assert same(video, expected)
    for begin in range(32):
        assert same(video.frames(begin, begin + 2), expected[begin : begin + 2], begin)
    assert same(list(video.reversed(20))[::-1], expected[:21])
    reader = FrameReader(FileVideo(path))
    for index in (20, 3, 14, 15, 31, 0):
        assert same([reader.read(index)], expected[index : index + 1], index)


def test_joined_files_may_also_leap_ahead(make_joined, plainly):
    path = make_joined(".ts", 5.0)
    expected, video = plainly(path), open_video(path)
    assert expected[15][1] > 4.5 and same(video, expected)
    assert video.key_frame(20) == 15, "it is sought in"
    for begin in (3, 14, 15, 20):
        assert same(video.frames(begin, begin + 2), expected[begin : begin + 2], begin)


def test_times_are_those_of_the_file(make_video):
    video = open_video(make_video(ticks=UNEVEN))
    assert [frame.time for frame in video] == pytest.approx([tick / 1000 for tick in UNEVEN], abs=1e-4)


@pytest.mark.parametrize("kind", ["b_frames", "uneven"])
@pytest.mark.parametrize("stop", [0, 1, REVERSE_CHUNK - 1, REVERSE_CHUNK, 39, None])
def test_backwards(kind, stop, make_video, plainly):
    path = make_video(**KINDS[kind])
    expected = plainly(path)[: None if stop is None else stop + 1]
    backwards = list(open_video(path).reversed(stop))
    assert [frame.index for frame in backwards] == list(range(len(expected)))[::-1]
    assert same(backwards[::-1], expected)


def test_backwards_keeps_few_frames(make_video, monkeypatch):
    monkeypatch.setattr("pam_kit.data.video.frames.REVERSE_CHUNK", 8)
    kept: list[weakref.ref] = []
    video = open_video(make_video())
    make = video.frame_of

    def counted(shown):
        frame = make(shown)
        kept.append(weakref.ref(frame))
        assert sum(ref() is not None for ref in kept) <= 9, "a chunk, and the frame in the consumer's hand"
        return frame

    monkeypatch.setattr(video, "frame_of", counted)
    assert sum(1 for _ in video.reversed()) == 40 == len(kept)


def test_a_long_last_frame_is_no_damage(make_video):
    """As of a recorded screen that stood still: what the head promises is there, in one frame."""
    video = open_video(make_video(ticks=[*range(0, 3900, 100), 60_000], b_frames=0))
    assert len(list(video)) == 40 == video.num_frames and video.damage is None


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_upright(rotation, turns, make_video, plainly):
    """The rotation of the file is counter-clockwise, as numpy's."""
    path = make_video(rotation=rotation, count=3)
    video = open_video(path)
    frames = list(video)
    assert (video.width, video.height) == ((48, 64) if turns % 2 else (64, 48))
    assert same(frames, [(np.rot90(image, turns), seconds) for image, seconds in plainly(path)])
    assert frames[0].image.flags["C_CONTIGUOUS"]


def test_wrong_numbers(make_video):
    video = open_video(make_video(count=5))
    for ask in (
        lambda: video.frames(5),
        lambda: video.frames(-1),
        lambda: video.reversed(5),
        lambda: video.reversed(-1),
    ):
        with pytest.raises(VideoError, match=r"clip.mp4 has no frame -?\d; its frames are 0 to 4"):
            ask()
    assert list(video.frames(2, 2)) == [] and len(list(video.frames(2, 99))) == 3


def test_closing_ends_an_iteration(make_video):
    with open_video(make_video()) as video:
        frames = iter(video)
        next(frames)
    assert list(frames) == []


def test_two_iterations_do_not_disturb_each_other(make_video, plainly):
    path = make_video()
    video = open_video(path)
    pairs = list(zip(video, video.frames(20), strict=False))
    assert same([one for one, _ in pairs], plainly(path)[: len(pairs)])
    assert same([other for _, other in pairs], plainly(path)[20:], 20)


def test_single_frames_by_number(make_video, plainly):
    path = make_video()
    expected, reader = plainly(path), FrameReader(FileVideo(path))
    order = [0, 1, 2, 7, 30, 31, 5, 39, 39, 0, *np.random.default_rng(0).permutation(40).tolist()]
    assert all(np.array_equal(reader.read(i).image, expected[i][0]) for i in order)
    reader = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(reader.read(8).image, expected[8][0])
    with pytest.raises(VideoError, match="has no frame 40"):
        reader.read(40)


def test_reading_on_opens_the_file_once(make_video, monkeypatch):
    reader = FrameReader(FileVideo(make_video()))
    assert reader.video.num_frames == 40
    opened = []
    monkeypatch.setattr(reader.video, "_open", lambda: opened.append(1) or FileVideo._open(reader.video))
    for i in range(0, 40, 3):
        reader.read(i)
    assert len(opened) <= 4, "at most once a key frame that is leapt over"


@pytest.mark.skipif(not REAL, reason="no videos in ../shared/data/videos")
def test_real_videos(plainly):
    path = next(path for path in REAL if path.stem == "bedroom")
    expected, video = plainly(path), open_video(str(path))
    assert (video.width, video.height, video.frame_rate, video.num_frames) == (960, 540, 30.0, 200)
    assert same(video, expected) and same(video.frames(150, 160), expected[150:160], 150)
    assert same(list(video.reversed(40))[::-1], expected[:41])
