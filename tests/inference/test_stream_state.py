"""A stream that is saved and brought back goes on to the last bit; files that are no such stream are told apart."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pam_kit.contracts import RegionPrompt
from pam_kit.data.video import Frame
from pam_kit.errors import CheckpointError, PamKitError
from pam_kit.inference.change_triggers import MaskChangeTrigger, SceneChangeTrigger
from pam_kit.inference.commentary import comment
from pam_kit.inference.stream_records import Description, StreamSettings
from pam_kit.inference.stream_state import load_stream, save_stream
from pam_kit.inference.streamer import RegionStream
from pam_kit.inference.triggers import AnyTrigger, AtTrigger, EveryTrigger
from pam_kit.inference.video_result import FramePrompt

BOX = RegionPrompt(box=(4, 10, 24, 30))
OTHER = RegionPrompt(points=((60, 20), (5, 5)), labels=(1, 0))
SETTINGS = StreamSettings(
    languages=("en", "zh"), clip_frames=6, read_every=0.2, frame_rate=10, max_new_tokens=6, lost_after=0.2
)


def script(stream: RegionStream, frames, begin: int = 0, end: int | None = None) -> list:
    """The life of a stream from frame ``begin`` on: prompts before frames 1 and 5, questions behind 4 and 9."""
    told = []
    for index, frame in list(enumerate(frames))[begin:end]:
        if index == 1:
            stream.prompt(BOX)
        if index == 5:
            stream.prompt(OTHER)
        report = stream.push(frame)
        for number, seen in report.regions.items():
            told.append((index, number, seen.mask_logits, seen.iou, seen.object_score))
        told += [(index, report.transitions, report.read)]
        if index in (4, 9):
            told += [without_times(one) for one in stream.describe()]
    return told


def without_times(said: Description) -> dict:
    return said.to_json() | {"latency_ms": None}


def assert_same(found: list, expected: list) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, tuple) and len(one) == 5:
            assert one[:2] == other[:2] and torch.equal(one[2], other[2]) and one[3:] == other[3:]
        else:
            assert one == other


@pytest.mark.parametrize(
    ("switches", "stops"), [({}, (0, 1, 3, 5, 8, 10)), ({"memory": False, "carry": False}, (3, 5, 8))]
)
def test_a_stream_goes_on_to_the_last_bit(video_model, moving_square, hidden, tmp_path, switches, stops):
    """Saved before any prompt, in the middle of clips, right behind a description, and while an object is hidden."""
    settings = StreamSettings(**{**SETTINGS.__dict__, **switches})
    frames, path = moving_square(12), tmp_path / "stream.safetensors"
    hidden({6, 7})  # the model observes from frame 1 on
    expected = script(RegionStream(video_model, settings), frames)
    for stop in stops:
        hidden({index - 1 for index in (7, 8)})
        first = RegionStream(video_model, settings)
        told = script(first, frames, 0, stop)
        save_stream(first, path)
        second = load_stream(video_model, path)
        del first
        assert second.settings == settings and second.frames == stop
        hidden({index - max(stop, 1) for index in (7, 8)})
        assert_same(told + script(second, frames, stop), expected)
    assert any(entry[1] for entry in expected if isinstance(entry, tuple) and isinstance(entry[1], dict))


def test_a_saved_stream_does_not_change_with_the_one_that_goes_on(video_model, moving_square, tmp_path):
    frames, path = moving_square(10), tmp_path / "stream.safetensors"
    stream = RegionStream(video_model, SETTINGS)
    script(stream, frames, 0, 6)
    save_stream(stream, path)
    expected = script(stream, frames, 6)
    for _ in range(2):
        assert_same(script(load_stream(video_model, path), frames, 6), expected)


def test_prompts_that_wait_and_numbers_that_were_given_are_kept(video_model, moving_square, tmp_path):
    frames, path = moving_square(5), tmp_path / "stream.safetensors"
    mask = np.zeros((48, 80), dtype=bool)
    mask[5:20, 30:60] = True
    stream = RegionStream(video_model, SETTINGS)
    stream.prompt(BOX, 4)
    stream.push(frames[0])
    stream.prompt(OTHER)
    stream.prompt(RegionPrompt(mask=mask))
    box = tuple(np.asarray((30, 12, 50, 40), dtype=np.float32))
    stream.prompt(RegionPrompt(box=box, points=((np.float32(40), np.float32(20)),), labels=(np.int64(1),)))
    save_stream(stream, path)
    again = load_stream(video_model, path)
    one, other = stream.push(frames[1]), again.push(frames[1])
    assert list(one.regions) == list(other.regions) == [4, 5, 6, 7]
    for number in one.regions:
        assert torch.equal(one.regions[number].mask_logits, other.regions[number].mask_logits)
    assert again.prompt(BOX) == 8 and again.time == stream.time


def test_times_of_work_are_those_since_it_came_back(video_model, moving_square, tmp_path):
    stream = RegionStream(video_model, SETTINGS)
    script(stream, moving_square(5))
    save_stream(stream, tmp_path / "s")
    again = load_stream(video_model, tmp_path / "s")
    assert again.summary()["busy_seconds"] == 0 and again.summary()["seconds"] == 0
    again.push(moving_square(6)[5])
    assert again.summary()["frames"] == 6 and again.summary()["seconds"] == pytest.approx(0.1)


def commented(stream, trigger, frames, begin=0, end=None, prompts=()):
    numbered = [Frame(frame, index / 10, index) for index, frame in enumerate(frames)][begin:end]
    return [(event.to_json() | {"latency_ms": None}) for event in comment(numbered, stream, trigger, prompts)]


def triggers() -> AnyTrigger:
    kinds = [EveryTrigger(0.4), AtTrigger([0.3, 0.5, 9.0]), MaskChangeTrigger(0.3, 0.1), SceneChangeTrigger(0.4)]
    return AnyTrigger(kinds)


@pytest.mark.parametrize("stop", [2, 7])
def test_a_commentary_goes_on_with_its_triggers(video_model, moving_square, tmp_path, stop):
    frames, prompts = moving_square(10), [FramePrompt(1, 1, BOX)]
    frames[6] = frames[6][::-1, ::-1].copy()
    expected = commented(RegionStream(video_model, SETTINGS), triggers(), frames, prompts=prompts)
    stream, trigger = RegionStream(video_model, SETTINGS), triggers()
    told = interrupted(stream, trigger, frames, stop, prompts)
    save_stream(stream, tmp_path / "s", trigger)
    fresh = triggers()
    again = load_stream(video_model, tmp_path / "s", trigger=fresh)
    told += commented(again, fresh, frames, stop)
    assert told == expected and len({event.get("reason") for event in told}) > 2


def stopped(frames, stop):
    return [Frame(frame, index / 10, index) for index, frame in enumerate(frames)][:stop]


def interrupted(stream, trigger, frames, stop, prompts) -> list[dict]:
    """What is told up to frame ``stop``, in front of which Ctrl-C comes."""

    def coming():
        yield from stopped(frames, stop)
        raise KeyboardInterrupt

    told = []
    with pytest.raises(KeyboardInterrupt):
        for event in comment(coming(), stream, trigger, prompts):
            told.append(event.to_json() | {"latency_ms": None})
    return told


def test_another_trigger_is_refused(video_model, tmp_path):
    save_stream(RegionStream(video_model), tmp_path / "s", AnyTrigger([EveryTrigger(2)]))
    with pytest.raises(PamKitError, match="not of 'any of: every 3s'; restore a stream with the arguments it was made"):
        load_stream(video_model, tmp_path / "s", trigger=AnyTrigger([EveryTrigger(3)]))


CHILD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("small_models", sys.argv[1])
small_models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small_models)
from pam_kit.contracts import RegionPrompt
from pam_kit.inference.stream_records import StreamSettings
from pam_kit.inference.stream_state import save_stream
from pam_kit.inference.streamer import RegionStream

settings = StreamSettings(
    languages=("en", "zh"), clip_frames=6, read_every=0.2, frame_rate=10, max_new_tokens=6, lost_after=0.2
)
stream = RegionStream(small_models.build_video_model(), settings)
frames = small_models.square_frames(12)
for index, frame in enumerate(frames):
    if index == 1:
        stream.prompt(RegionPrompt(box=(4, 10, 24, 30)))
    if index == 5:
        stream.prompt(RegionPrompt(points=((60, 20), (5, 5)), labels=(1, 0)))
    if index == 7:
        save_stream(stream, sys.argv[2])
        print("saved", flush=True)
    if index == 9:
        sys.stdin.read()  # it lives until it is killed
    stream.push(frame)
    if index == 4:
        stream.describe()
"""


def test_a_stream_outlives_the_process_that_is_killed(video_model, moving_square, this_file, tmp_path):
    path, frames = tmp_path / "stream.safetensors", moving_square(12)
    arguments = [sys.executable, "-P", "-c", CHILD, str(this_file), str(path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        stream = RegionStream(video_model, SETTINGS)
        script(stream, frames, 0, 7)
        expected = script(stream, frames, 7)
        assert child.stdout.readline() == "saved\n"
        os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert_same(script(load_stream(video_model, path), frames, 7), expected)


def test_the_turns_of_frames_that_are_read_are_kept(video_model, moving_square, tmp_path):
    """Saved behind a gap, in which turns were left out."""
    frames, times, read = moving_square(7), (0.0, 0.1, 5.0, 5.1, 5.19, 5.2, 5.3), []
    stream = RegionStream(video_model, SETTINGS)
    stream.prompt(BOX)
    for index, (frame, time) in enumerate(zip(frames, times, strict=True)):
        if index == 4:
            save_stream(stream, tmp_path / "s")
            stream = load_stream(video_model, tmp_path / "s")
        read += [stream.push(frame, time).read]
    assert read == [[1], [], [1], [], [], [1], []]


def test_a_stream_that_was_stopped_in_the_middle_is_not_saved(video_model, moving_square, tmp_path, monkeypatch):
    stream, path, frames = RegionStream(video_model, SETTINGS), tmp_path / "stream.safetensors", moving_square(4)
    script(stream, frames, 0, 3)
    save_stream(stream, path)
    before = path.read_bytes()
    with monkeypatch.context() as patching, pytest.raises(MemoryError):
        patching.setattr(stream.follower, "perceived", lambda regions: (_ for _ in ()).throw(MemoryError))
        stream.push(frames[3])
    with pytest.raises(PamKitError, match="after 3 whole frames; it cannot be saved to .*stream.safetensors: load it"):
        save_stream(stream, path)
    assert path.read_bytes() == before and load_stream(video_model, path).frames == 3


def test_files_that_are_no_such_stream_are_told_apart(video_model, moving_square, tmp_path, monkeypatch):
    stream, path = RegionStream(video_model, SETTINGS), tmp_path / "stream.safetensors"
    script(stream, moving_square(3))
    save_stream(stream, path)
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-100])
    (tmp_path / "text").write_text("a stream, is it not?")
    for name, version in (("weights", "pt"), ("older", "pam-kit stream 2")):
        save_file({"weight": torch.zeros(2)}, tmp_path / name, metadata={"format": version})
    messages = {
        "missing": "no saved stream at",
        "cut": "is not a saved stream, or it is cut off",
        "text": "is not a saved stream, or it is cut off",
        "weights": "is not a saved stream of this version; it says 'pt'",
        "older": "is not a saved stream of this version; it says 'pam-kit stream 2'",
        ".": "no saved stream at",
    }
    for name, message in messages.items():
        with pytest.raises(CheckpointError) as refused:
            load_stream(video_model, tmp_path / name)
        assert message in str(refused.value) and str(tmp_path / name) in str(refused.value)
    first = next(video_model.projector.parameters())
    with torch.no_grad():
        value = first.flatten()[0].clone()
        first.view(-1)[0] += 0.01
    try:
        with pytest.raises(CheckpointError, match="is a stream of another model; load it with the run that it was"):
            load_stream(video_model, path)
    finally:
        with torch.no_grad():
            first.view(-1)[0] = value
    assert load_stream(video_model, path).frames == 3


def test_a_stream_that_cannot_be_written_leaves_the_former_file(video_model, moving_square, tmp_path, monkeypatch):
    stream, path = RegionStream(video_model, SETTINGS), tmp_path / "stream.safetensors"
    script(stream, moving_square(2))
    save_stream(stream, path)
    before = path.read_bytes()
    stream.push(moving_square(3)[2])
    with monkeypatch.context() as patching:
        patching.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(PamKitError, match="cannot be saved to .*stream.safetensors: No space left on device"):
            save_stream(stream, path)
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_file_holds_what_the_stream_has_and_no_more(video_model, moving_square, tmp_path):
    """A longer stream is no larger, once its memory is full and its clip ends."""
    stream, sizes = RegionStream(video_model, SETTINGS), []
    stream.prompt(BOX)
    for index, frame in enumerate(moving_square(60)):
        stream.push(frame)
        if index in (29, 59):
            stream.describe()
            save_stream(stream, tmp_path / "s")
            sizes.append((tmp_path / "s").stat().st_size)
    assert abs(sizes[1] - sizes[0]) < 2000, sizes  # numbers with more digits
