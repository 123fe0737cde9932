"""Folders, lists, cameras, addresses and raw frames."""

import functools
import http.server
import os
import socket
import threading
import wave

import av
import numpy as np
import pytest
from PIL import Image

from pam_kit.data.video import BackgroundFrames, VideoError, open_video
from pam_kit.data.video.forward import ForwardVideo, RawVideo
from pam_kit.errors import BrokenSample


def write_folder(folder, names, size=(32, 24)):
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        Image.new("RGB", size, (i, 0, 0)).save(folder / name)
    return folder


def test_a_folder_in_the_order_of_its_numbers(tmp_path):
    folder = write_folder(tmp_path / "walk", [f"frame_{i}.png" for i in range(12)])
    (folder / "notes.txt").write_text("not a frame")
    (folder / ".hidden.png").write_text("not a frame")
    video = open_video(folder, frame_rate=4)
    assert (video.width, video.height, video.frame_rate, video.num_frames, video.live) == (32, 24, 4, 12, False)
    assert [(f.image[0, 0, 0], f.time, f.index) for f in video] == [(i, i / 4, i) for i in range(12)]
    assert [f.index for f in video.frames(3, 6)] == [3, 4, 5] and [f.image[0, 0, 0] for f in video.reversed(2)] == [
        2,
        1,
        0,
    ]
    with pytest.raises(VideoError, match="walk has no frame 12; its frames are 0 to 11"):
        video.frames(12)


def test_lists_of_paths_and_of_arrays(tmp_path):
    folder = write_folder(tmp_path / "walk", ["b.png", "a.png"])
    listed = open_video([folder / "b.png", str(folder / "a.png")])
    assert [frame.image[0, 0, 0] for frame in listed] == [0, 1] and listed.frame_rate == 30
    arrays = [np.full((6, 8, 3), i, np.uint8) for i in range(40)]
    assert [frame.image is arrays[frame.index] for frame in open_video(arrays)] == [True] * 40
    assert [frame.index for frame in open_video(arrays).reversed()] == list(range(40))[::-1]


@pytest.mark.parametrize(
    ("pictures", "reason"),
    [
        ([], "a list of 0 pictures holds no picture"),
        (
            [np.zeros((6, 8, 3), np.float32)],
            r"frame 0 must be a path or a \(H, W, 3\) uint8 array, not float32 \(6, 8, 3\)",
        ),
        ([np.zeros((6, 8), np.uint8)], r"not uint8 \(6, 8\)"),
        ([7], "not int"),
    ],
)
def test_wrong_lists(pictures, reason):
    with pytest.raises(VideoError, match=reason):
        open_video(pictures)


def test_folders_that_are_no_video(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    with pytest.raises(VideoError, match="no picture in the folder .*notes; expected frames .*.jpg"):
        open_video(tmp_path / "notes")
    folder = write_folder(tmp_path / "walk", ["0.png", "1.png"])
    Image.new("RGB", (40, 24)).save(folder / "1.png")
    with pytest.raises(VideoError, match="walk: frame 1 has 40x24 pixels, those before it 32x24"):
        list(open_video(folder))
    (folder / "1.png").write_bytes(b"no picture")
    with pytest.raises(BrokenSample, match="1.png' is not a picture"):
        list(open_video(folder))
    with pytest.raises(VideoError, match="0.png is a picture; a video is"):
        open_video(folder / "0.png")


@pytest.mark.parametrize("source", [97, "97", "camera:97", "/dev/video97"])
def test_no_such_camera(source):
    with pytest.raises(VideoError, match="no camera /dev/video97; (this machine has none|there is)"):
        open_video(source)


@pytest.mark.parametrize(
    "address", ["concat:a.mp4|b.mp4", "file:/etc/passwd", "subfile:,,start,0,end,0,,:a", "ftp://x/a"]
)
def test_addresses_that_are_not_allowed(address):
    with pytest.raises(VideoError, match="addresses begin with http://, https://, rtsp://"):
        open_video(address)


def test_an_address_where_nobody_answers():
    with pytest.raises(VideoError, match="http://127.0.0.1:9/a.mp4 cannot be opened: Connection refused"):
        open_video("http://127.0.0.1:9/a.mp4")


@pytest.fixture
def served(tmp_path):
    """The address of the test's folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_address(served, make_video, plainly):
    path = make_video(movflags="faststart")
    with open_video(f"{served}/clip.mp4") as video:
        assert (video.width, video.height, video.live, video.num_frames) == (64, 48, False, None)
        frames = list(video)
        expected = plainly(path)
        assert [frame.time for frame in frames] == pytest.approx([seconds for _, seconds in expected])
        assert all(np.array_equal(f.image, image) for f, (image, _) in zip(frames, expected, strict=True))
        assert list(video) == [], "it only goes on"
        for ask in (video.frames, video.reversed):
            with pytest.raises(VideoError, match="only goes forward; store it as a video file"):
                ask()


def test_iterations_of_what_only_goes_on_take_turns(served, make_video):
    """One that waits for its next frame stands in nobody's way, nor in that of closing."""
    make_video(movflags="faststart")
    with open_video(f"{served}/clip.mp4") as video:
        one, other = iter(video), iter(video)
        assert [next(one).index, next(other).index, next(one).index] == [0, 1, 2]
        assert [frame.index for frame in other] == list(range(3, 40)) and list(one) == []


def test_what_gives_no_frame_is_closed(make_video, tmp_path):
    path = tmp_path / "sound.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    container = av.open(str(path))
    with pytest.raises(VideoError, match="sound has no video stream, only audio"):
        ForwardVideo(container, "sound", live=True)
    with pytest.raises(Exception, match="(?i)closed|not open"):
        next(container.demux())


def test_a_playlist_behind_an_address_cannot_name_files_of_this_machine(served, make_video, tmp_path):
    clip = make_video("clip.ts")
    (tmp_path / "a.m3u8").write_text(f"#EXTM3U\n#EXTINF:4,\nfile://{clip}\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError):
        open_video(f"{served}/a.m3u8")


@pytest.fixture
def sender():
    """``sender(data, stay)`` -> the address of who sends ``data`` and then hangs up, or says nothing more."""
    stop, threads = threading.Event(), []

    def serve(data: bytes, stay: bool = False) -> str:
        server = socket.create_server(("127.0.0.1", 0))

        def send():
            with server, server.accept()[0] as connection:
                connection.sendall(data)
                if stay:
                    stop.wait(20)

        threads.append(threading.Thread(target=send, daemon=True))
        threads[-1].start()
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"

    yield serve
    stop.set()
    for thread in threads:
        thread.join(5)


def test_a_live_stream(sender, make_video, plainly):
    path = make_video("clip.ts")
    with open_video(sender(path.read_bytes())) as video:
        assert video.live and video.num_frames is None and (video.width, video.height) == (64, 48)
        expected = plainly(path)
        frames = list(BackgroundFrames(video, ahead=100, drop=True))
        assert [frame.time for frame in frames] == pytest.approx([seconds for _, seconds in expected])
        assert all(np.array_equal(f.image, image) for f, (image, _) in zip(frames, expected, strict=True))


def test_a_live_stream_whose_clock_jumps_back(sender, make_video):
    """A camera that begins anew sends the times of its beginning once more; the frames go on behind the last one."""
    data = make_video("clip.ts", count=13).read_bytes()
    with open_video(sender(data + data)) as video:
        times = [frame.time for frame in video]
    assert times == pytest.approx([0.1 * index for index in range(26)])


def test_a_stream_that_falls_silent(sender, make_video, monkeypatch):
    monkeypatch.setattr("pam_kit.data.video.forward.TIMEOUTS", (5.0, 0.5))
    with open_video(sender(make_video("clip.ts").read_bytes(), stay=True)) as video:
        with pytest.warns(UserWarning, match="tcp://.* ends early, behind frame 3.: the file cannot be read on"):
            assert len(list(video)) >= 35
    monkeypatch.setattr("pam_kit.data.video.forward.TIMEOUTS", (0.5, 0.5))
    with pytest.raises(VideoError, match="tcp://.* cannot be opened"):
        open_video(sender(b"", stay=True))


def pipe(data: bytes) -> int:
    """A descriptor to read ``data`` from, written by a thread in pieces that fit no frame."""
    reading, writing = os.pipe()

    def write():
        with os.fdopen(writing, "wb") as file:
            for start in range(0, len(data), 1000):
                file.write(data[start : start + 1000])
                file.flush()

    threading.Thread(target=write, daemon=True).start()
    return reading


def test_raw_frames():
    images = np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3), dtype=np.uint8)
    video = RawVideo((32, 24), 10, pipe(images.tobytes()))
    frames = list(video)
    assert np.array_equal([frame.image for frame in frames], images) and video.damage is None
    assert [frame.time for frame in frames] == [0, 0.1, 0.2, 0.3, 0.4] and video.num_frames is None and not video.live


def test_raw_frames_that_end_in_the_middle():
    video = RawVideo((32, 24), 10, pipe(bytes(2 * 32 * 24 * 3 + 100)))
    with pytest.warns(UserWarning, match="ends early, behind frame 1: 100 of the 2304 bytes of a 32x24 frame came"):
        assert len(list(video)) == 2


def test_a_wait_for_raw_frames_can_be_ended():
    reading, writing = os.pipe()
    video = RawVideo((32, 24), 10, reading)
    thread = threading.Thread(target=lambda: list(video))
    thread.start()
    video.close()
    thread.join(5)
    os.close(writing)
    assert not thread.is_alive()


def test_raw_frames_need_their_size():
    with pytest.raises(VideoError, match="give it with --size, for example 640x480"):
        open_video("-")
    with pytest.raises(VideoError, match="frames of 100000x100000 pixels"):
        open_video("-", size=(100000, 100000))
    with pytest.raises(VideoError, match="size must be"):
        open_video("-", size=(0, 3))
    with pytest.raises(VideoError, match="frame_rate must be"):
        open_video("-", size=(4, 3), frame_rate=0.0)
