"""Sources and options that are no good: exit code 2 and one line that names the culprit and the remedy."""

import json
from pathlib import Path

import pytest
from PIL import Image

WIDTH, HEIGHT = 96, 64
BOX = ["--box", "8,12,40,44"]


def failing(call, verb, source, *options) -> str:
    """The one line of a call that must end with exit code 2."""
    code, told, err = call(verb, source, *options)
    assert code == 2 and err.startswith(f"pam-kit {verb}: ") and err.count("\n") == 1, err
    assert not told or told[-1]["event"] == "end"
    return err


@pytest.fixture(scope="module")
def bad(tmp_path_factory, video, drawn) -> Path:
    """A folder of sources that are no good."""
    folder = tmp_path_factory.mktemp("bad")
    whole = video.read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a video")
    (folder / "nothing").mkdir()
    (folder / "empty.txt").write_text("\n\n")
    (folder / "binary.txt").write_bytes(bytes(range(256)))
    (folder / "missing.txt").write_text("nowhere.png\n")
    (folder / "sizes").mkdir()
    for index, frame in enumerate(drawn(5)):
        Image.fromarray(frame if index != 3 else frame[:40]).save(folder / "sizes" / f"{index}.png")
    Image.fromarray(drawn(1)[0]).save(folder / "photo.png")
    return folder


@pytest.mark.parametrize("verb", ["stream", "predict", "describe-long"])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("cut.mp4", "cut.mp4 cannot be opened as a video"),
        ("empty.mp4", "empty.mp4 is empty (0 bytes)"),
        ("text.mp4", "text.mp4 cannot be opened as a video"),
        ("nothing", "no picture in the folder"),
        ("empty.txt", "empty.txt lists no picture; expected one path a line"),
        ("binary.txt", "binary.txt is no text; a .txt file lists pictures, one path a line"),
        ("missing.txt", "nowhere.png"),
        ("sqare.mp4", "no file "),
        ("gopher://host/video", "addresses begin with http://"),
        ("camera:77", "no camera /dev/video77"),
        ("sizes", "frame 3 has 96x40 pixels, those before it 96x64; cut the video where its size changes, or scale"),
    ],
)
def test_sources_that_are_no_good(call, bad, verb, source, message, tmp_path):
    path = source if ":" in source else bad / source
    trigger = ["--every", "200ms"] if verb == "stream" else []
    err = failing(call, verb, path, *BOX, *trigger, "--out", tmp_path / "out.mp4")
    assert message in err
    # A stream keeps what it had written when the size changed; nothing else leaves a file.
    left = [one.name for one in tmp_path.iterdir()]
    assert left == (["out.mp4"] if source == "sizes" and verb != "predict" else [])


@pytest.mark.parametrize(
    ("verb", "options", "message"),
    [
        ("stream", BOX, "when should it speak? give --every 2s, --at 3.5,7,12, or --on mask-change"),
        ("stream", [*BOX, "--every", "soon"], "'soon' is no time; expected seconds as in 2s, 500ms or 3.5"),
        ("stream", [*BOX, "--every", "0s"], "cannot speak every 0.0 seconds; give a period above 0"),
        ("stream", [*BOX, "--at", "3,2"], "the times 3.0, 2.0 are not in ascending order; sort them"),
        ("stream", ["--every", "2s"], "nothing to look at: give --box x1,y1,x2,y2"),
        ("stream", [*BOX, "--every", "2s", "--out", "a.png"], "--out a.png: the annotated video is an mp4"),
        (
            "stream",
            [*BOX, "--every", "2s", "--out", "no/a.mp4"],
            "--out no/a.mp4: there is no folder no; make it first",
        ),
        ("stream", [*BOX, "--every", "2s", "--save", "."], "--save . is a folder; give the name of a file"),
        ("stream", [*BOX, "--every", "2s", "--load", "no.state"], "no saved stream at no.state"),
        ("stream", [*BOX, "--every", "2s", "--frames", "900"], "clips of 900 frames (--frames, clip_frames) take"),
        ("stream", [*BOX, "--every", "2s", "--rate", "-3"], "frame_rate must be a number of frames a second above 0"),
        ("stream", [*BOX, "--every", "2s", "--frame", "90"], "region 1 is to be pointed at in frame 90, but the last"),
        ("stream", ["--box", "1,1,500,9", "--every", "2s"], "does not fit a picture of 96x64 pixels"),
        ("describe-long", [*BOX, "--clip", "0"], "cannot speak every 0.0 seconds"),
        ("predict", [*BOX, "--out", "a.png"], "--out a.png: the annotated video is an mp4; its name must end in .mp4"),
        ("predict", [*BOX, "--frame", "20"], "region 1 is pointed at in frame 20 of a video of 20 frames; frames are"),
        (
            "predict",
            ["--box", "1,1,500,9@4"],
            "region 1, pointed at in frame 4: box (1.0, 1.0, 500.0, 9.0) does not fit",
        ),
        (
            "predict",
            ["--box", "1,1,9,9@4#2", "--box", "1,1,8,8@4#2"],
            "region 2, pointed at in frame 4: one region has at most one box",
        ),
        ("predict", ["--mask", "no.png@3"], "--mask no.png: no such file"),
    ],
)
def test_options_that_are_no_good(call, video, verb, options, message):
    assert message in failing(call, verb, video, *options)


@pytest.mark.parametrize("verb", ["stream", "predict", "describe-long"])
def test_a_prompt_is_looked_at_before_the_model_is_loaded(call, video, verb):
    trigger = ["--every", "1s"] if verb == "stream" else []
    err = failing(call, verb, video, "--box", "1,1,500,9", *trigger, "--checkpoint", "no_such_run")
    assert "does not fit a picture of 96x64 pixels" in err


def test_a_picture_is_no_video_and_standard_input_no_file(call, bad):
    assert "photo.png is a picture; a video is" in failing(call, "stream", bad / "photo.png", *BOX, "--every", "1s")
    assert "needs a file; pam-kit stream reads from -" in failing(call, "predict", "-", *BOX)
    message = "--out a.mp4: the overlay is a picture; its name must end in .png"
    assert message in failing(call, "predict", bad / "photo.png", *BOX, "--out", "a.mp4")


def test_a_video_that_breaks_off_is_used_up_to_there(call, video, tmp_path):
    """Of a file whose index comes first: what was there is described, the damage is told, and the JSON has it."""
    import av

    whole, cut = tmp_path / "front.mp4", tmp_path / "cut.mp4"
    with av.open(str(video)) as source, av.open(str(whole), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    cut.write_bytes(whole.read_bytes()[:-700])
    code, told, err = call("predict", cut, *BOX, "--json", "--out", tmp_path / "out.mp4")
    found = json.loads(told)
    assert code == 0 and 0 < found["num_frames"] < 20 and found["damage"] in err
    assert err.count("\n") == 1 and err.endswith("; what comes before was used\n") and "ends early, behind frame" in err
    code, events, err = call("stream", cut, *BOX, "--every", "1s")
    assert code == 0 and events[-1]["frames"] == found["num_frames"] and events[-1]["damage"] in err
