"""predict VIDEO and describe-long: masks of every frame, texts, annotated videos."""

import contextlib
import errno
import io
import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pam_kit.cli import main
from pam_kit.data.video import open_video
from pam_kit.data.video.writing import Mp4Encoder
from pam_kit.inference.annotated_video import AnnotatedStream
from pam_kit.inference.streamer import RegionStream

WIDTH, HEIGHT = 96, 64
BOX = ["--box", "8,12,40,44"]


@pytest.fixture(scope="module")
def predicted(run, video, tmp_path_factory) -> tuple[dict, Path]:
    """The JSON of one call with two regions in different frames, and the annotated video."""
    out, told = tmp_path_factory.mktemp("annotated") / "out.mp4", io.StringIO()
    prompts = ["--box", "8,12,40,44@3#1", "--point", "60,20", "30,50,0@7#2", "--box", "20,12,50,44@9#1"]
    with contextlib.redirect_stdout(told):
        code = main(
            ["predict", str(video), "--checkpoint", str(run), *prompts, "--task", "caption", "--lang", "en,zh"]
            + ["--frames", "5", "--max-new-tokens", "3", "--device", "cpu", "--json", "--out", str(out)]
        )
    assert code == 0
    return json.loads(told.getvalue()), out


def test_predict_prints_masks_and_texts_of_a_video(predicted, video):
    told, _ = predicted
    assert (told["video"], told["width"], told["height"], told["num_frames"]) == (str(video), WIDTH, HEIGHT, 20)
    assert [(region["region"], [p["frame"] for p in region["prompts"]]) for region in told["regions"]] == [
        (1, [3, 9]),
        (2, [7]),
    ]
    for region in told["regions"]:
        assert [frame["frame"] for frame in region["frames"]] == list(range(20))
        assert [frame["time"] for frame in region["frames"]] == [round(index / 10, 4) for index in range(20)]
        for frame in region["frames"]:
            if frame["segmentation"] is not None:
                mask = coco_mask.decode(frame["segmentation"])
                assert mask.shape == (HEIGHT, WIDTH) and mask.sum() == frame["area"]
        assert set(region["texts"]["caption"]) == {"en", "zh"} and len(region["read_frames"]) == 5
    assert told["latency_ms"]["encode"]["count"] == 17 + 8


def test_predict_writes_an_annotated_video(predicted, drawn):
    told, out = predicted
    with open_video(out) as annotated:
        frames = list(annotated)
    assert len(frames) == 20 and [round(frame.time, 3) for frame in frames] == [index / 10 for index in range(20)]
    scale = 6  # 96 pixels become 576
    assert frames[0].image.shape[1] == WIDTH * scale and frames[0].image.shape[0] > HEIGHT * scale
    region = next(frame for frame in told["regions"][0]["frames"] if frame["frame"] == 12)
    mask = coco_mask.decode(region["segmentation"]).astype(bool)
    shown = frames[12].image[: HEIGHT * scale : scale, : WIDTH * scale : scale].astype(int)
    changed = np.abs(shown - drawn(20)[12]).sum(2) > 40
    assert changed[mask].mean() > 0.6 > 0.3 > changed[~mask].mean() or mask.mean() > 0.95


def test_predict_speaks_plainly_of_a_video(call, video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, told, _ = call("predict", video, *BOX, "--frame", "2", "--sampler", "mask_change", "--frames", "3")
    assert code == 0 and "region 1: in sight in " in told and " of 20 frames, present at 0.00 s" in told
    assert "  caption   en  " in told and "  recognize " not in told
    assert told.endswith("annotated: square_regions.mp4\n") and Path("square_regions.mp4").is_file()


def test_an_object_that_is_never_visible(call, video, tmp_path, monkeypatch):
    """By its score alone: SAM 2 draws a mask where it is pointed at all the same."""
    from pam_kit.components.backbones.sam2 import Sam2

    observe = Sam2.observe

    def observed(*arguments, **keywords):
        regions = observe(*arguments, **keywords)
        regions.object_score = regions.object_score * 0 - 9
        return regions

    monkeypatch.setattr(Sam2, "observe", observed)
    code, told, _ = call("predict", video, *BOX, "--frame", "2", "--out", tmp_path / "out.mp4")
    assert code == 0 and told.startswith("region 1: in sight in 0 of 20 frames, lost at 0.00 s\nannotated: ")
    code, events, _ = call("stream", video, *BOX, "--every", "1s", "--each-frame")
    assert code == 0 and [event["state"] for event in events if event["event"] == "state"] == ["lost"]
    assert [event["texts"] for event in events if event["event"] == "caption"] == [{}, {}]
    frames = [event["regions"][0] for event in events if event["event"] == "frame"]
    assert not any(frame["in_sight"] for frame in frames) and frames[0]["area"] > 0


def test_predict_takes_a_folder_and_a_list_of_pictures(call, drawn, tmp_path):
    for index, frame in enumerate(drawn(3)):
        Image.fromarray(frame).save(tmp_path / f"frame_{index + 8}.png")
    (tmp_path / "list.txt").write_text("frame_9.png\n\nframe_8.png\n")
    for source, count in ((tmp_path, 3), (tmp_path / "list.txt", 2)):
        code, told, _ = call("predict", source, *BOX, "--rate", "5", "--json", "--out", tmp_path / "out.mp4")
        found = json.loads(told)
        assert code == 0 and found["num_frames"] == count
        assert found["regions"][0]["frames"][1]["time"] == 0.2


def test_describe_long_merges_clips_into_one_text(call, video, tmp_path):
    code, told, _ = call("describe-long", video, *BOX, "--clip", "700ms", "--lang", "en,zh", "--json")
    said = json.loads(told)
    assert code == 0 and [(one["region"], one["language"]) for one in said] == [(1, "en"), (1, "zh")]
    for one in said:
        assert one["passages"][0]["start"] == 0 and one["passages"][-1]["end"] == 1.9
        assert all(a["end"] == b["start"] for a, b in zip(one["passages"], one["passages"][1:], strict=False))
    code, told, _ = call("describe-long", video, *BOX, "--clip", "700ms", "--out", tmp_path / "out.mp4")
    assert code == 0 and told.startswith("region 1, en:\n[0:00.0 - 0:0") and (tmp_path / "out.mp4").is_file()


def test_describe_long_prints_what_was_said_until_it_is_stopped(call, video, monkeypatch):
    push = RegionStream.push

    def pushed(stream, image, time=None):
        if stream.frames == 12:
            signal.raise_signal(signal.SIGINT)
        return push(stream, image, time)

    monkeypatch.setattr(RegionStream, "push", pushed)
    code, told, err = call("describe-long", video, *BOX, "--clip", "500ms", "--json")
    said = json.loads(told)
    assert code == 130 and err == "pam-kit describe-long: stopped\n"
    assert [(one["region"], one["language"], one["passages"][-1]["end"]) for one in said] == [(1, "en", 1.0)]


def test_a_video_is_answered_in_the_precision_that_is_wished_for(call, video, tmp_path, monkeypatch):
    from pam_kit.inference.tracker import VideoPredictor

    types, predict = [], VideoPredictor.predict

    def listening(self, *rest, **named):
        types.append(next(self.model.decoder.parameters()).dtype)
        return predict(self, *rest, **named)

    monkeypatch.setattr(VideoPredictor, "predict", listening)
    told = ("--box", "8,12,40,44", "--frames", "2", "--out", tmp_path / "out.mp4", "--precision", "bfloat16")
    code, _, err = call("predict", video, *told, "--steps", "fixed")
    assert code == 0 and [str(one) for one in types] == ["torch.bfloat16"]
    assert err.startswith("pam-kit predict: --steps fixed: no effect, since all answers about a video are one batch")


def test_options_of_videos_have_no_effect_on_a_picture(call, drawn, tmp_path):
    picture = tmp_path / "photo.png"
    Image.fromarray(drawn(1)[0]).save(picture)
    options = [*BOX, "--frames", "16", "--rate", "5", "--out", tmp_path / "out.png"]
    code, told, err = call("predict", picture, *options)
    assert (
        code == 0
        and err == f"pam-kit predict: --frames, --rate: no effect, since {picture} is a picture, not a video\n"
    )
    assert "  recognize en  " in told and "  caption " not in told


def test_a_variable_frame_rate_keeps_its_times(call, write_video, tmp_path):
    times = [0.0, 0.1, 0.15, 0.7, 0.75, 1.6, 1.61, 2.0]
    video = write_video(tmp_path / "vfr.mp4", 8, times)
    _, told, _ = call("predict", video, *BOX, "--json", "--out", tmp_path / "out.mp4")
    assert [frame["time"] for frame in json.loads(told)["regions"][0]["frames"]] == pytest.approx(times, abs=1e-3)
    with open_video(tmp_path / "out.mp4") as annotated:
        assert [frame.time for frame in annotated] == pytest.approx(times, abs=1e-3)
    _, events, _ = call("stream", video, *BOX, "--every", "1s")
    captions = [(one["start"], one["end"]) for one in events if one["event"] == "caption"]
    assert captions == [(0.0, pytest.approx(1.6, abs=1e-3)), (pytest.approx(1.6, abs=1e-3), pytest.approx(2, abs=1e-3))]


def beginning(video: Path, path: Path, count: int) -> Path:
    """The first ``count`` frames of ``video`` in a file of their own, as they are stored."""
    with av.open(str(video)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in itertools.islice(source.demux(video=0), count):
            packet.stream = stream
            target.mux(packet)
    return path


def test_a_video_of_two_joined_files_goes_on_in_time(call, video, tmp_path):
    """The clock begins anew where the second file does; times, events and both directions go on."""
    joined, out = tmp_path / "joined.ts", tmp_path / "out.mp4"
    joined.write_bytes(beginning(video, tmp_path / "part.ts", 10).read_bytes() * 2)
    times = pytest.approx([index / 10 for index in range(20)])
    code, told, _ = call("predict", joined, *BOX, "--frame", "12", "--json", "--out", out)
    assert code == 0 and [frame["time"] for frame in json.loads(told)["regions"][0]["frames"]] == times
    with open_video(out) as annotated:
        assert [frame.time for frame in annotated] == times
    code, events, _ = call("stream", joined, *BOX, "--every", "500ms", "--each-frame")
    assert code == 0 and [one["time"] for one in events if one["event"] == "frame"] == times


def test_a_full_disk_ends_a_stream_with_the_reason(call, video, tmp_path, monkeypatch):
    encode = Mp4Encoder.write

    def encoded(encoder, image, time=None):
        if encoder.frames == 3:
            raise av.error.OSError(errno.ENOSPC, "No space left on device")
        encode(encoder, image, time)

    monkeypatch.setattr(Mp4Encoder, "write", encoded)
    out = tmp_path / "out.mp4"
    code, events, err = call("stream", video, *BOX, "--every", "1s", "--out", out)
    assert code == 2 and err == f"pam-kit stream: cannot write {out}: No space left on device\n"
    assert events[-1]["event"] == "end" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["predict", "stream", "describe-long"])
def test_help_is_quick_and_complete(verb):
    code = (
        "import sys, time; start = time.perf_counter()\nfrom pam_kit.cli import main\n"
        f"try: main([{verb!r}, '--help'])\nexcept SystemExit as end: print('exit', end.code)\n"
        "heavy = {'torch', 'numpy', 'av', 'transformers', 'PIL'} & set(sys.modules)\n"
        "print('seconds', time.perf_counter() - start, 'heavy', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    seconds = float(done.stdout.split("seconds ")[1].split()[0])
    assert "heavy []" in done.stdout and "exit 0" in done.stdout and seconds < 2, seconds  # 0.5 where nothing else runs
    for word in ("--checkpoint", "--box", "--frame", "--task", "--lang", "--out"):
        assert word in done.stdout


REAL = Path(__file__).parents[3] / "shared" / "data" / "videos"
BEDROOM, DOG = REAL / "bedroom.mp4", REAL / "dog.mp4"


@pytest.mark.skipif(not BEDROOM.is_file(), reason=f"{BEDROOM} is absent")
def test_a_real_video(call, tmp_path):
    """The first moments of a film, as it comes from a camera: H.264 of 960 x 540 pixels."""
    short = beginning(BEDROOM, tmp_path / "bedroom.mp4", 6)
    box = ["--box", "200,100,400,400", "--frame", "3", "--lang", "en,zh", "--task", "caption"]
    code, told, _ = call("predict", short, *box, "--json", "--out", tmp_path / "out.mp4")
    found = json.loads(told)
    assert code == 0 and found["num_frames"] == 6 and len(found["regions"][0]["frames"]) == 6
    code, events, _ = call("stream", short, *box, "--every", "200ms", "--out", tmp_path / "stream.mp4")
    assert code == 0 and events[-1]["frames"] == 6
    for name in ("out.mp4", "stream.mp4"):
        with open_video(tmp_path / name) as annotated:
            assert len(list(annotated)) == 6 and annotated.width == found["width"]


def assert_coloured(out: Path, source: Path, masks: list[np.ndarray]) -> None:
    """The annotated video has all frames, at their times, tinted inside of the masks, and hardly changed outside."""
    inside, outside = [], []
    with open_video(source) as plain, open_video(out) as annotated:
        for frame, shown, mask in zip(plain, annotated, masks, strict=True):
            assert shown.time == pytest.approx(frame.time, abs=1e-3)
            picture = shown.image[: plain.height, : plain.width]
            change = np.abs(picture.astype(int) - frame.image).sum(2)
            inside.append(change[mask])
            outside.append(change[~mask])
    tinted, left = np.concatenate(inside), np.concatenate(outside)
    assert min(len(tinted), len(left)) > 10_000, "masks that are neither nothing nor all"
    assert (tinted > 30).mean() > 0.9 > 0.1 > (left > 30).mean()


@pytest.mark.slow
@pytest.mark.skipif(not BEDROOM.is_file(), reason=f"{BEDROOM} is absent")
def test_predict_colours_a_real_video(call, tmp_path):
    short, out = beginning(BEDROOM, tmp_path / "bedroom.mp4", 24), tmp_path / "bedroom_regions.mp4"
    asked = ["--box", "310,0,516,396", "--frame", "12", "--lang", "en,zh", "--json"]
    code, told, _ = call("predict", short, *asked, "--out", out)
    found = json.loads(told)
    assert code == 0 and found["num_frames"] == 24
    told_masks = [frame["segmentation"] for frame in found["regions"][0]["frames"]]
    nothing = np.zeros((found["height"], found["width"]), dtype=bool)
    assert_coloured(out, short, [nothing if m is None else coco_mask.decode(m).astype(bool) for m in told_masks])


@pytest.mark.slow
@pytest.mark.skipif(not DOG.is_file(), reason=f"{DOG} is absent")
def test_stream_colours_a_real_video(call, tmp_path, monkeypatch):
    short, out = beginning(DOG, tmp_path / "dog.mp4", 24), tmp_path / "dog_live.mp4"
    masks, write = [], AnnotatedStream.on_frame

    def written(annotated, frame, report):
        masks.append(report.regions[1].mask())
        write(annotated, frame, report)

    monkeypatch.setattr(AnnotatedStream, "on_frame", written)
    asked = ["--box", "450,380,700,548", "--every", "400ms", "--lang", "en,zh"]
    code, events, _ = call("stream", short, *asked, "--out", out)
    assert code == 0 and events[-1]["frames"] == 24 and any(event["event"] == "caption" for event in events)
    assert_coloured(out, short, masks)
