"""Written videos, read back; drafts that vanish, and one that outlives its writer."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from pam_kit.data.video import VideoError, VideoWriter, open_video

SMOOTH = np.add.outer(np.arange(48) * 2, np.arange(64) * 2)[..., None].repeat(3, 2).astype(np.uint8)


def test_frames_and_times_come_back(tmp_path):
    path = tmp_path / "new" / "out.mp4"
    with VideoWriter(path, 30000 / 1001, (64, 48)) as writer:
        for i in range(60):
            writer.write(np.roll(SMOOTH, i, axis=1))
        assert not path.exists() and [p.name[:9] for p in path.parent.iterdir()] == [".out.mp4-"]
    assert writer.encoder == "libx264" and writer.frames == 60 and os.listdir(path.parent) == ["out.mp4"]
    video = open_video(path)
    assert video.num_frames == 60 and video.frame_rate == pytest.approx(30000 / 1001) and video.damage is None
    for i, frame in enumerate(video):
        assert frame.time == pytest.approx(i * 1001 / 30000, abs=1e-9)
        assert np.abs(frame.image.astype(int) - np.roll(SMOOTH, i, axis=1)).mean() < 3


def test_uneven_times_are_kept(tmp_path):
    times = [0, 0.01, 0.5, 0.51, 7.123456]
    with VideoWriter(tmp_path / "a.mp4", 25, (64, 48)) as writer:
        for time in times:
            writer.write(SMOOTH, time)
    assert [frame.time for frame in open_video(tmp_path / "a.mp4")] == pytest.approx(times, abs=1e-5)


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40), (255, 255, 255)])
def test_colours_stay(colour, tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 25, (64, 48)) as writer:
        writer.write(np.full((48, 64, 3), colour, np.uint8))
    assert np.abs(next(open_video(tmp_path / "a.mp4").frames()).image.astype(int) - colour).max() <= 3


def test_odd_sides_become_even(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 25, (63, 47)) as writer:
        writer.write(SMOOTH[:47, :63])
    image = next(open_video(tmp_path / "a.mp4").frames()).image
    assert image.shape == (48, 64, 3) and np.abs(image[:47, :63].astype(int) - SMOOTH[:47, :63]).mean() < 3


def test_an_encoder_that_every_build_has(tmp_path, monkeypatch):
    monkeypatch.setattr("pam_kit.data.video.writing.ENCODERS", ("none_such", "mpeg4"))
    with VideoWriter(tmp_path / "a.mp4", 30000 / 1001, (64, 48)) as writer:
        for i in range(5):
            writer.write(np.roll(SMOOTH, i, axis=1))
    assert writer.encoder == "mpeg4"
    frames = list(open_video(tmp_path / "a.mp4"))
    assert [frame.time for frame in frames] == pytest.approx([i * 1001 / 30000 for i in range(5)])
    assert np.abs(frames[4].image.astype(int) - np.roll(SMOOTH, 4, axis=1)).mean() < 5


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(VideoError, match="cannot write .*file/a.mp4"):
        VideoWriter(tmp_path / "file" / "a.mp4", 25, (64, 48))


def test_after_an_error_nothing_is_left(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"the former one")
    with pytest.raises(RuntimeError), VideoWriter(path, 25, (64, 48)) as writer:
        writer.write(SMOOTH)
        raise RuntimeError
    assert path.read_bytes() == b"the former one" and os.listdir(tmp_path) == ["a.mp4"]


@pytest.mark.parametrize(
    ("image", "time", "reason"),
    [
        (SMOOTH[:40], None, r"a frame to write is uint8 \(40, 64, 3\); expected uint8 \(48, 64, 3\)"),
        (SMOOTH.astype(np.float32), None, "a frame to write is float32"),
        (SMOOTH, -0.1, "frame 1 at -0.1 s does not come at 0.000000 s or later"),
        (SMOOTH, float("nan"), "frame 1 at nan s does not come at 0.000000 s or later"),
    ],
)
def test_wrong_frames(image, time, reason, tmp_path):
    with pytest.raises(VideoError, match=reason), VideoWriter(tmp_path / "a.mp4", 25, (64, 48)) as writer:
        writer.write(SMOOTH)
        writer.write(image, time)
    assert os.listdir(tmp_path) == []


def test_frames_of_one_time_follow_each_other(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 25, (64, 48)) as writer:
        for time in (0.0, 0.5, 0.5, 0.5, 1.0):
            writer.write(SMOOTH, time)
    with open_video(tmp_path / "a.mp4") as video:
        times = [frame.time for frame in video.frames()]
    assert times == sorted(set(times)) and times == pytest.approx([0, 0.5, 0.5, 0.5, 1], abs=1e-3)


def test_wrong_files(tmp_path):
    with pytest.raises(VideoError, match="a.avi does not end in .mp4"):
        VideoWriter(tmp_path / "a.avi", 25, (64, 48))
    for rate in (0, float("nan"), 1e9):
        with pytest.raises(VideoError, match="frame_rate must be"):
            VideoWriter(tmp_path / "a.mp4", rate, (64, 48))
    with (
        pytest.raises(VideoError, match="no frame was written to .*a.mp4"),
        VideoWriter(tmp_path / "a.mp4", 9, (64, 48)),
    ):
        pass
    writer = VideoWriter(tmp_path / "b.mp4", 25, (64, 48))
    writer.write(SMOOTH)
    writer.close()
    writer.close()
    with pytest.raises(VideoError, match="b.mp4 is closed"):
        writer.write(SMOOTH)
    assert os.listdir(tmp_path) == ["b.mp4"]


def test_the_draft_of_a_killed_writer_can_be_played(tmp_path):
    code = (
        "import sys, time, numpy as np\nfrom pam_kit.data.video import VideoWriter\n"
        f"writer = VideoWriter({str(tmp_path / 'a.mp4')!r}, 30, (64, 48))\n"
        "for i in range(300): writer.write(np.full((48, 64, 3), i % 256, np.uint8))\n"
        "print('written', flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    (draft,) = tmp_path.iterdir()
    assert draft.suffix == ".part"
    frames = list(open_video(draft))
    assert len(frames) >= 150 and [int(f.image.mean().round()) for f in frames[::50]] == pytest.approx(
        range(0, len(frames), 50), abs=3
    )
