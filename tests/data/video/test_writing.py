"""Written videos, read back; drafts that vanish, and one that outlives its writer."""

import os
import resource
import signal
import subprocess
import sys

import av
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


@pytest.mark.parametrize("endless", [False, True])
def test_the_draft_of_a_killed_writer_can_be_played(endless, tmp_path):
    code = (
        "import sys, time, numpy as np\nfrom pam_kit.data.video import VideoWriter\n"
        f"writer = VideoWriter({str(tmp_path / 'a.mp4')!r}, 30, (64, 48), endless={endless})\n"
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


@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_an_endless_video_is_read_like_any_other(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("pam_kit.data.video.writing.ENCODERS", (encoder,))
    path = tmp_path / "a.mp4"
    times = [index / 30 if index < 100 else 5 + index / 10 for index in range(200)]
    with VideoWriter(path, 30, (64, 48), endless=True) as writer:
        for index, time in enumerate(times):
            writer.write(np.roll(SMOOTH, index, axis=1), time)
    video = open_video(path)
    assert video.num_frames == 200 and video.damage is None
    assert [frame.time for frame in video] == pytest.approx(times, abs=1e-4)
    for index in (0, 47, 48, 150, 199):
        frame = next(video.frames(index))
        assert frame.time == pytest.approx(times[index], abs=1e-4)
        assert np.abs(frame.image.astype(int) - np.roll(SMOOTH, index, axis=1)).mean() < 10  # as coarse as mpeg4
    with av.open(str(path)) as container:
        assert container.duration / av.time_base == pytest.approx(times[-1] + 1 / 30, abs=0.1)
    short = tmp_path / "short.mp4"
    short.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.warns(UserWarning, match="ends early"):
        cut_off = list(open_video(short))
    assert 90 < len(cut_off) < 200 and [frame.time for frame in cut_off] == pytest.approx(
        times[: len(cut_off)], abs=1e-4
    )


@pytest.mark.parametrize("endless", [False, True])
def test_an_endless_video_needs_no_index_of_all_frames(endless, tmp_path):
    """What closing adds to the file had to be kept in memory until then: the last frames, or a word on every frame."""
    added = []
    for count in (97, 481):
        writer = VideoWriter(tmp_path / "a.mp4", 30, (64, 48), endless=endless)
        for _ in range(count):
            writer.write(SMOOTH)
        (draft,) = tmp_path.glob("*.part")
        before = draft.stat().st_size
        writer.close()
        added.append((tmp_path / "a.mp4").stat().st_size - before)
    assert (added[1] < added[0] + 100) == endless


@pytest.mark.slow
@pytest.mark.parametrize("endless", [False, True])
def test_the_memory_of_an_endless_video_stays(endless, tmp_path):
    """80 bytes a frame otherwise: 4 MB of 50,000 frames, far more than what comes and goes."""
    code = (
        "import numpy as np\nfrom pam_kit.data.video import VideoWriter\n"
        f"writer = VideoWriter({str(tmp_path / 'a.mp4')!r}, 30, (16, 16), 40, endless={endless})\n"
        "for i in range(50001):\n"
        "    if i in (500, 10000, 50000): print(4 * int(open('/proc/self/statm').read().split()[1]))\n"
        "    writer.write(np.zeros((16, 16, 3), np.uint8))\n"
        "writer.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, middle, last = map(int, done.stdout.split())
    print(f"endless={endless}: {first}, {middle}, {last} KiB at 500, 10000, 50000 frames")
    assert (last - first < 1 << 10) == endless


@pytest.fixture
def small_disk():
    """``small_disk(size)``: from now on no file of this process may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("endless", [False, True])
@pytest.mark.parametrize("frames", [100, 3])
def test_a_full_disk_is_what_is_told(frames, endless, small_disk, tmp_path):
    """It is found while frames are written, or, of few, when the file is closed."""
    path, noise = tmp_path / "a.mp4", np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    path.write_bytes(b"the former one")
    small_disk(1000)
    writer = VideoWriter(path, 25, (64, 48), endless=endless)
    with pytest.raises(VideoError) as refused:
        for _ in range(frames):
            writer.write(noise)
        writer.close()
    assert str(refused.value) == f"cannot write {path}: File too large"
    writer.close()  # as who leaves a ``with`` does; the first error is the one to tell
    with pytest.raises(VideoError, match="a.mp4 is closed"):
        writer.write(noise)
    assert path.read_bytes() == b"the former one" and os.listdir(tmp_path) == ["a.mp4"]
