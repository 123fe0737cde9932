"""What is wrong with a video: an error that names it, or frames up to the damage and a word about it."""

import re
import warnings
from pathlib import Path

import av
import numpy as np
import pytest

from pam_kit.data.video import VideoError, open_video


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    short = path.with_name(f"cut{path.suffix}")
    short.write_bytes(data[: int(len(data) * share)])
    return short


def test_an_index_that_was_never_written(make_video):
    with pytest.raises(
        VideoError, match=r"cut.mp4 cannot be opened as a video .* cut off, as an mp4 is whose recording"
    ):
        open_video(cut(make_video(), 0.6))


@pytest.mark.parametrize(
    "kind",
    [
        {"movflags": "faststart"},
        {"movflags": "frag_keyframe+empty_moov"},
        {"name": "clip.mkv"},
        {"name": "clip.ts"},
        {"name": "clip.avi", "b_frames": 0, "clock": 10},
    ],
)
def test_the_frames_before_a_cut_are_given(kind, make_video, plainly):
    path = make_video(**kind)
    whole, video = plainly(path), open_video(cut(path, 0.6))
    with pytest.warns(UserWarning, match="ends early, behind frame") as warned:
        frames = list(video)
    assert len(warned) == 1 and str(video.damage) == str(warned[0].message)
    assert 15 <= len(frames) < 30 and f"behind frame {len(frames) - 1}:" in video.damage
    assert all(np.array_equal(frame.image, image) for frame, (image, _) in zip(frames, whole, strict=False))
    with warnings.catch_warnings(action="error"):
        assert len(list(video)) == len(frames), "warned of once"
        backwards = [frame.index for frame in video.reversed()]
    assert backwards == list(range(min(len(frames), video.num_frames)))[::-1]
    # AVI stores no time of decoding, so one frame less is certain; in a transport stream only decoding tells.
    more = {"clip.avi": -1, "clip.ts": 2}.get(kind.get("name"), 0)
    assert video.num_frames - len(frames) == more


def test_a_spoilt_packet(make_video, plainly):
    path = make_video()
    whole = plainly(path)
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][20]  # of 40, in the order of decoding
    data = bytearray(path.read_bytes())
    data[packet.pos + 4 : packet.pos + packet.size] = bytes(packet.size - 4)
    path.write_bytes(data)
    video = open_video(path)
    with pytest.warns(UserWarning, match="a packet cannot be decoded"):
        frames = list(video)
    assert 18 <= len(frames) <= 22
    assert all(np.array_equal(frame.image, image) for frame, (image, _) in zip(frames, whole, strict=False))


def test_nothing_but_a_head(make_video):
    """All of the index and none of the pictures."""
    path = make_video(movflags="faststart")
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"mdat") + 4])
    with pytest.raises(VideoError, match="clip.mp4 holds no frame that can be decoded"):
        open_video(path)


def test_no_video_stream(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="sound.mp4 has no video stream, only audio"):
        open_video(path)


def test_a_codec_that_nobody_knows(make_video):
    path = make_video()
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zz91"))
    with pytest.raises(VideoError, match="clip.mp4: the codec of its video stream is unknown .* ffmpeg -i IN"):
        open_video(path)


def test_another_size_in_the_middle(make_video, tmp_path):
    one, other = make_video("a.ts", count=10), make_video("b.ts", count=10, size=(80, 48))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(one.read_bytes() + other.read_bytes())
    video, frames = open_video(joined), []
    with pytest.raises(VideoError, match="joined.ts: frame 10 has 80x48 pixels, those before it 64x48"):
        frames.extend(video)
    assert len(frames) == 10


def test_too_large(make_video, monkeypatch):
    monkeypatch.setattr("pam_kit.data.video.frames.MAX_PIXELS", 64 * 48 - 1)
    path = make_video(count=2)
    with pytest.raises(VideoError, match=re.escape("clip.mp4: frames of 64x48 pixels; 1 to 3071 pixels are read")):
        open_video(path)


def test_no_such_file(make_video, tmp_path):
    make_video("bedroom.mp4", count=1)
    with pytest.raises(VideoError, match="no file .*bedrom.mp4; did you mean 'bedroom.mp4'"):
        open_video(tmp_path / "bedrom.mp4")
    with pytest.raises(VideoError, match="there is no folder .*nowhere either"):
        open_video(tmp_path / "nowhere" / "a.mp4")


def test_no_video_at_all(tmp_path):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match=r"empty.mp4 is empty \(0 bytes\)"):
        open_video(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("not a video " * 100)
    with pytest.raises(VideoError, match="text.mp4 cannot be opened as a video"):
        open_video(tmp_path / "text.mp4")


@pytest.mark.parametrize("name", ["list.ffconcat", "list.m3u8", "list.mp4"])
def test_lists_that_name_other_files_are_not_followed(name, make_video, tmp_path):
    clip = make_video("clip.ts")
    text = f"#EXTM3U\n#EXTINF:4,\n{clip.name}\n#EXT-X-ENDLIST\n"
    if name == "list.ffconcat":
        text = f"ffconcat version 1.0\nfile {clip.name}\n"
    (tmp_path / name).write_text(text)
    with pytest.raises(VideoError, match="cannot be opened as a video"):
        open_video(tmp_path / name)
