"""stream: one line an event, saved and brought back, stopped by hand, read from a pipe and into a pipe."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pam_kit.cli import main
from pam_kit.data.video import open_video
from pam_kit.inference.annotated_video import AnnotatedStream
from pam_kit.inference.stream_records import FrameReport

WIDTH, HEIGHT = 96, 64
BOX = ["--box", "8,12,40,44"]


def kinds(events: list[dict]) -> list[str]:
    return [event["event"] for event in events]


def test_stream_prints_a_line_an_event(call, video, tmp_path):
    code, events, err = call(
        "stream", video, *BOX, "--every", "500ms", "--lang", "en,zh", "--out", tmp_path / "out.mp4", "--each-frame"
    )
    assert code == 0 and err == "" and kinds(events)[-1] == "end"
    assert [event["frame"] for event in events if event["event"] == "frame"] == list(range(20))
    captions = [event for event in events if event["event"] == "caption"]
    assert [(one["start"], one["end"], one["reason"]) for one in captions] == [
        (0, 0.5, "every 0.5s"),
        (0.5, 1.0, "every 0.5s"),
        (1.0, 1.5, "every 0.5s"),
        (1.5, 1.9, "end"),
    ]
    assert all(one["texts"] or one["state"] == "lost" for one in captions)
    end = events[-1]
    assert (end["frames"], end["seconds"], end["dropped_frames"], end["damage"]) == (20, 1.9, 0, None)
    assert end["real_time_factor"] > 0 and set(end["latency_ms"]) >= {"encode", "track", "first_token", "decode"}
    assert {"p50", "p95", "mean", "count"} == set(end["latency_ms"]["encode"])
    told = 20 + sum(event["event"] in ("state", "caption") for event in events)
    assert [end["latency_ms"][name]["count"] for name in ("trigger", "draw", "tell")] == [20, 20, told]
    with open_video(tmp_path / "out.mp4") as annotated:
        assert len(list(annotated)) == 20


def test_drawing_and_telling_count_as_work(call, video, tmp_path, monkeypatch):
    """A stream that draws slower than its frames come does not keep up."""
    draw, told = AnnotatedStream.on_frame, FrameReport.to_json
    monkeypatch.setattr(AnnotatedStream, "on_frame", lambda *frame: (time.sleep(0.06), draw(*frame))[1])
    monkeypatch.setattr(FrameReport, "to_json", lambda report: (time.sleep(0.04), told(report))[1])
    _, events, _ = call("stream", video, *BOX, "--every", "9s", "--out", tmp_path / "out.mp4", "--each-frame")
    end = events[-1]
    assert end["latency_ms"]["draw"]["p50"] >= 60 and end["latency_ms"]["tell"]["p50"] >= 40
    assert end["busy_seconds"] >= 20 * 0.1 and end["real_time_factor"] > 1


def test_stream_says_at_which_times_there_was_no_region(call, video):
    _, events, err = call("stream", video, *BOX, "--frame", "5", "--at", "0.2,0.3,0.8")
    assert [event["reason"] for event in events if event["event"] == "caption"] == ["at 0.8s", "end"]
    assert err == "pam-kit stream: nothing was said at 0.2, 0.3 s, since no region was followed then\n"


def test_stream_speaks_at_given_times_and_at_no_others(call, video):
    code, events, err = call("stream", video, *BOX, "--at", "0.3,500ms,7,8.5", "--frames", "4")
    reasons = [event["reason"] for event in events if event["event"] == "caption"]
    assert code == 0 and reasons == ["at 0.3s", "at 0.5s", "end"]
    assert err == "pam-kit stream: nothing was said at 7, 8.5 s, since the frames ended before\n"


def test_the_source_may_stand_behind_points(call, video, run, capsys):
    options = ["--checkpoint", str(run), "--every", "1s", "--max-new-tokens", "2", "--device", "cpu"]
    assert main(["stream", *options, "--point", "20,20", "40,20", str(video)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["frames"] == 20
    assert main(["stream", *options, "--point", "20,20", "40,20"]) == 2
    assert "where to look? give a source, as in pam-kit stream video.mp4" in capsys.readouterr().err


def test_stream_goes_on_where_it_was_saved(call, video, write_video, tmp_path):
    """A longer file that begins like the first one is gone through up to there."""
    asked, first = ["--every", "500ms", "--lang", "zh"], write_video(tmp_path / "first.mp4", 8)
    _, told, _ = call("stream", first, *BOX, *asked, "--save", tmp_path / "state")
    assert told[-2]["reason"] == "end" and told[-2]["end"] == 0.7
    other = ["--every", "500ms", "--lang", "en", "--task", "caption", "--frames", "4", "--no-memory"]
    code, more, err = call("stream", video, *other, "--load", tmp_path / "state", "--each-frame")
    unused = "--lang, --frames, --no-memory: no effect, since the saved stream goes on with its own settings"
    assert err == f"pam-kit stream: {unused}\n" and set(more[-2]["texts"]["caption"]) == {"zh"}
    assert code == 0 and [one["frame"] for one in more if one["event"] == "frame"] == list(range(8, 20))
    captions = [(one["start"], one["reason"]) for one in more if one["event"] == "caption"]
    assert captions == [(0.7, "every 0.5s"), (1.0, "every 0.5s"), (1.5, "end")]
    assert more[-1]["frames"] == 20 and more[-1]["seconds"] == pytest.approx(1.2)


def test_ctrl_c_leaves_whole_files_and_the_stream_goes_on_identically(call, video, tmp_path, monkeypatch):
    """The signal comes while a frame is worked on; the frame is finished, and no more is begun."""
    from pam_kit.inference.streamer import RegionStream

    asked = ["--every", "500ms", "--lang", "en,zh", "--each-frame"]
    _, expected, _ = call("stream", video, *BOX, *asked)
    push = RegionStream.push

    def pushed(stream, image, time=None):
        report = push(stream, image, time)
        if stream.frames == 8:
            signal.raise_signal(signal.SIGINT)
        return report

    # Where a shell runs the tests in its background, the signal is ignored.
    before = signal.getsignal(signal.SIGINT)
    files = ["--save", tmp_path / "state", "--out", tmp_path / "out.mp4"]
    with monkeypatch.context() as patching:
        patching.setattr(RegionStream, "push", pushed)
        code, told, err = call("stream", video, *BOX, *asked, *files)
    assert code == 130 and err == "pam-kit stream: stopped\n"
    assert kinds(told)[-1] == "end" and told[-1]["frames"] == 8
    with open_video(tmp_path / "out.mp4") as annotated:
        assert len(list(annotated)) == 8
    code, more, _ = call("stream", video, *asked, "--load", tmp_path / "state", "--out", tmp_path / "rest.mp4")
    assert code == 0 and without_times(told[:-1] + more[:-1]) == without_times(expected[:-1])
    with open_video(tmp_path / "rest.mp4") as annotated:
        assert len(list(annotated)) == 12
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stream_that_is_stopped_in_the_middle_leaves_the_former_file(call, video, write_video, tmp_path, monkeypatch):
    """A second Ctrl-C, while a frame is worked on: it would be tracked twice by a stream that goes on."""
    from pam_kit.inference.following import RegionFollower

    asked, state, first = ["--every", "500ms", "--each-frame"], tmp_path / "state", write_video(tmp_path / "8.mp4", 8)
    call("stream", first, *BOX, *asked, "--save", state)
    saved, step, steps = state.read_bytes(), RegionFollower.step, iter(range(100))

    def stopped(*arguments):
        found = step(*arguments)
        if next(steps) == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return found

    for files, left in ((["--load", state], "is left as it was"), ([*BOX], "nothing is saved")):
        path = state if files[0] == "--load" else tmp_path / "other"
        with monkeypatch.context() as patching:
            patching.setattr(RegionFollower, "step", stopped)
            code, told, err = call("stream", video, *asked, *files, "--save", path)
        assert code == 130 and told[-1]["frames"] == (11 if files[0] == "--load" else 3)
        assert err.startswith("pam-kit stream: stopped in the middle of its work; ") and left in err
        assert err.endswith("pam-kit stream: stopped\n")
        steps = iter(range(100))
    assert state.read_bytes() == saved and not (tmp_path / "other").exists()


def test_a_prompt_behind_the_end_of_a_stream_that_goes_on(call, write_video, tmp_path):
    """There is no frame left in which it could be refused."""
    source, asked = write_video(tmp_path / "8.mp4", 8), ["--every", "500ms", "--save", tmp_path / "state"]
    call("stream", source, *BOX, *asked)
    code, _, err = call("stream", source, "--box", "8,12,40,44@900#2", *asked, "--load", tmp_path / "state")
    assert code == 2 and "region 2 is to be pointed at in frame 900, but the last frame is 7" in err


def without_times(events: list[dict]) -> list[dict]:
    return [event | {"latency_ms": None} for event in events]


def test_ctrl_c_while_a_silent_source_is_waited_for(run, drawn, standard_input, tmp_path, capsys):
    with standard_input() as (write, _):
        os.write(write, drawn(1)[0].tobytes())
        timer = threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        begin = time.monotonic()
        code = main(
            ["stream", "-", "--size", f"{WIDTH}x{HEIGHT}", "--checkpoint", str(run), *BOX, "--every", "9s"]
            + ["--save", str(tmp_path / "state"), "--device", "cpu"]
        )
        timer.join()
    assert code == 130 and time.monotonic() - begin < 30 and (tmp_path / "state").is_file()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["frames"] == 1


def piped(call, standard_input, data: bytes, *options) -> tuple[int, list[dict], str]:
    with standard_input() as (write, close):

        def feed():
            with contextlib.suppress(BrokenPipeError):
                view = memoryview(data)
                while view:
                    view = view[os.write(write, view[: 1 << 14]) :]
            close()

        feeding = threading.Thread(target=feed)
        feeding.start()
        try:
            return call("stream", "-", *options, *BOX, "--every", "300ms")
        finally:
            feeding.join()


def test_raw_frames_come_through_standard_input(call, drawn, standard_input, tmp_path):
    data = b"".join(frame.tobytes() for frame in drawn(7))
    size = ["--size", f"{WIDTH}x{HEIGHT}", "--rate", "10"]
    code, events, err = piped(call, standard_input, data, *size, "--save", tmp_path / "state")
    assert code == 0 and err == "" and events[-1]["frames"] == 7 and events[-1]["seconds"] == pytest.approx(0.6)
    assert [one["end"] for one in events if one["event"] == "caption"] == [0.3, 0.6]
    # A pipe goes on: its first frame is the next one of the stream.
    with standard_input() as (write, close):
        os.write(write, data[: 2 * WIDTH * HEIGHT * 3])
        close()
        more = call("stream", "-", *size, "--every", "300ms", "--load", tmp_path / "state", "--each-frame")[1]
    assert [(one["frame"], one["time"]) for one in more if one["event"] == "frame"] == [(7, 0.7), (8, 0.8)]


@pytest.mark.parametrize(
    ("size", "count", "message"),
    [
        ([], 2, "raw frames on standard input need their size; give it with --size, for example 640x480"),
        (["--size", "96x63"], 2, None),
        (["--size", "960x640"], 2, "standard input gave no frame; standard input ends early, behind frame -1"),
        (["--size", f"{WIDTH}x{HEIGHT}"], 0, "standard input gave no frame; is it what was meant?"),
        (
            ["--size", "20x20"],
            2,
            "region 1, pointed at in frame 0: box (8.0, 12.0, 40.0, 44.0) does not fit a picture of",
        ),
    ],
)
def test_raw_frames_of_another_size(call, drawn, standard_input, size, count, message):
    data = b"".join(frame.tobytes() for frame in drawn(count))
    code, events, err = piped(call, standard_input, data, *size)
    if message is None:  # two frames and the rest of a third: nothing else can be known
        assert code == 0 and events[-1]["frames"] == 2 and "is the size right?" in events[-1]["damage"]
        assert err.startswith("pam-kit stream: standard input ends early, behind frame 1: 576 of the 18144 bytes")
    else:
        assert code == 2 and err.startswith(f"pam-kit stream: {message}"), err
        assert err.count("\n") == 1, err


def test_a_reader_that_goes_is_no_error(run, drawn, tmp_path):
    """`pam-kit stream ... | head -1` in a process of its own, with raw frames from another one."""
    script, state, out = tmp_path / "feeder.py", tmp_path / "state", tmp_path / "out.mp4"
    script.write_text(f"import sys; sys.stdout.buffer.write({drawn(1)[0].tobytes()!r} * 30)")
    options = f"--size {WIDTH}x{HEIGHT} --rate 10 --checkpoint {run} {' '.join(BOX)} --every 300ms --max-new-tokens 2"
    stream = f"{sys.executable} -m pam_kit.cli stream - {options} --device cpu --save {state} --out {out}"
    command = f"{sys.executable} {script} | {{ {stream}; echo code $? >&2; }} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout)["event"] == "state"
    lines = [line for line in done.stderr.splitlines() if "code" in line or "pam-kit" in line or "Error" in line]
    assert lines == ["code 0"], done.stderr
    assert state.is_file()
    with open_video(out) as annotated:
        assert 0 < len(list(annotated)) < 30
