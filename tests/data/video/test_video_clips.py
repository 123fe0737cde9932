"""Clips whose frames lie in a video file: which ones, how often they are decoded, and what is wrong with a line."""

import json
import pickle

import av
import numpy as np
import pytest

from pam_kit.data.check import check_dataset
from pam_kit.data.clip_dataset import ClipDataset
from pam_kit.data.clips import KEPT_FRAMES, VideoFrames
from pam_kit.data.jsonl import JsonlDataset
from pam_kit.data.schema import VideoSpan, parse_line, record_line
from pam_kit.data.video import FileVideo
from pam_kit.errors import BrokenSample

REGION = {"id": "man", "box": [4, 2, 20, 22], "texts": {"caption": {"en": "The man walks."}}}


@pytest.fixture
def clips(make_video, tmp_path):
    """``clips(line, ...)`` -> the dataset of these lines, beside clip.mp4 of 40 frames."""
    make_video()

    def write(*entries: dict) -> ClipDataset:
        lines = [json.dumps({"video": "clip.mp4", "regions": [REGION]} | entry) for entry in entries]
        (tmp_path / "clips.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return ClipDataset(str(tmp_path / "clips.jsonl"))

    return write


@pytest.fixture
def images(clips, plainly, tmp_path):
    return [image for image, _ in plainly(tmp_path / "clip.mp4")]


@pytest.mark.parametrize(
    ("span", "numbers"),
    [
        ({}, range(40)),
        ({"start": 12}, range(12, 40)),
        ({"start": 12, "stop": 31, "step": 3}, range(12, 31, 3)),
        ({"stop": 40, "step": 50}, range(1)),
    ],
)
def test_the_frames_of_a_span(span, numbers, clips, images):
    dataset = clips(span)
    frames = dataset[0].frames
    assert len(frames) == len(numbers)
    assert all(np.array_equal(frame, images[n]) for frame, n in zip(frames, numbers, strict=True))
    assert all(np.array_equal(frames[-i - 1], images[n]) for i, n in enumerate(reversed(numbers)))
    assert check_dataset(dataset).clips == 1


def test_a_clip_begins_where_its_region_is_pointed_at(clips, images):
    frames = clips({"start": 10, "step": 2, "regions": [REGION | {"frame": 3}]})[0].frames
    assert len(frames) == 12 and np.array_equal(frames[0], images[16]) and np.array_equal(frames[2:4][1], images[22])


def test_in_order_each_frame_is_decoded_once_and_few_are_kept(clips, images, monkeypatch):
    given, frame_of = [], FileVideo.frame_of
    monkeypatch.setattr(FileVideo, "frame_of", lambda self, shown: given.append(shown.index) or frame_of(self, shown))
    frames = clips({})[0].frames
    for _frame in frames:
        assert len(frames._kept) <= KEPT_FRAMES + 1
    assert given == list(range(40))
    assert [frames[i].shape for i in (0, 39, 32)] == [(48, 64, 3)] * 3 and given == list(range(40))
    assert np.array_equal(frames[5], images[5]) and given[40:] == [5]
    again = pickle.loads(pickle.dumps(frames))
    assert np.array_equal(again[20], images[20])


def test_one_count_for_all_clips_of_a_video(clips, monkeypatch, tmp_path):
    dataset = clips(*({"start": i} for i in range(5)))
    opened, create = [], FileVideo.__init__
    monkeypatch.setattr(FileVideo, "__init__", lambda self, path: opened.append(path) or create(self, path))
    assert [len(dataset[i].frames) for i in range(5)] == [40, 39, 38, 37, 36]
    assert opened == [tmp_path / "clip.mp4"]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"image": "a.png"}, "give either image"),
        ({"frames": ["a.png"]}, "give either image"),
        ({"video": None, "frames": ["a.png"], "stop": 3}, "stop counts the frames of a video, and none is given"),
        ({"video": 7}, "video must be a non-empty text"),
        ({"start": -1}, "start must be a number of frames, at least 0, not -1"),
        ({"start": 1.0}, "start must be a number of frames"),
        ({"stop": True}, "stop must be a number of frames"),
        ({"step": 0}, "step must be a number of frames, at least 1, not 0"),
        ({"start": 5, "stop": 5}, "no frame lies from start 5 to before stop 5"),
        ({"every": 2}, "unknown key 'every'"),
        ({"stop": 41}, "clip.mp4' has 40 frames; wanted are 0 to 41"),
        ({"start": 40}, "has 40 frames; wanted are 40 to its end"),
        ({"stop": 4, "regions": [REGION | {"frame": 4}]}, "frame 4 of a clip of 4 frames"),
        ({"start": 30, "regions": [REGION | {"frame": 10}]}, "pointed at in frame 10, which lies behind the end"),
        ({"video": "clap.mp4"}, "no file .*clap.mp4; did you mean 'clip.mp4'"),
        ({"video": "clips.jsonl"}, "clips.jsonl cannot be opened as a video"),
        ({"width": 64, "height": 50}, "declared as 64x50 pixels, but the picture has 64x48"),
        ({"regions": [REGION | {"box": [4, 2, 80, 22]}]}, "does not fit a picture of 64x48"),
    ],
)
def test_broken_lines(entry, reason, clips):
    with pytest.raises(BrokenSample, match=f"clips.jsonl:1: .*{reason}"):
        clips(entry)[0]


@pytest.mark.filterwarnings("ignore:.*ends early")
def test_a_damaged_video(clips, make_video, tmp_path):
    data = make_video("whole.mp4", movflags="faststart").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    dataset = clips({"video": "cut.mp4"}, {"video": "cut.mp4", "stop": 10}, {"video": "cut.mp4", "stop": 35})
    with pytest.raises(BrokenSample, match="ends early, behind frame .*; give stop to use what is before it"):
        dataset[0]
    assert len(list(dataset[1].frames)) == 10
    with pytest.raises(BrokenSample, match=r"cut.mp4' has \d+ frames; wanted are 0 to 35"):
        dataset[2]


def test_a_video_that_is_spoilt_further_on(make_video, plainly):
    """Its packets are all there, so only decoding finds out; behind the next key frame it goes on."""
    path = make_video()
    expected = plainly(path)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    packet = packets[20]
    spoilt = sorted(packet.pts for packet in packets).index(packet.pts)
    data = bytearray(path.read_bytes())
    data[packet.pos + 4 : packet.pos + packet.size] = bytes(packet.size - 4)
    path.write_bytes(data)
    frames = VideoFrames(FileVideo(path), "clips.jsonl:3")
    assert len(frames) == 40 and frames[10].shape == (48, 64, 3)
    with (
        pytest.warns(UserWarning, match="ends early"),
        pytest.raises(BrokenSample, match="clips.jsonl:3: .*ends early"),
    ):
        frames[spoilt]
    assert np.array_equal(frames[35], expected[35][0])


def test_lines_round_trip_and_are_no_pictures(clips, tmp_path):
    line = json.dumps(
        {"video": "a.mp4", "start": 12, "stop": 60, "step": 2, "history": {"en": "x"}, "regions": [REGION]}
    )
    record = parse_line(line, "clips.jsonl:1")
    assert record.video == VideoSpan("a.mp4", 12, 60, 2) and record.image is None and record.frames == ()
    assert parse_line(record_line(record), "clips.jsonl:1") == record
    clips({})
    with pytest.raises(BrokenSample, match="a clip in a video; this dataset reads pictures"):
        JsonlDataset(str(tmp_path / "clips.jsonl"))[0]
