"""A stream keeps nothing that it will not need: live tensors, and the resident memory of a process of its own.

The process goes the whole way: a video file, frames decoded ahead, the stream, and the annotated video as it grows.
"""

import gc
import json
import subprocess
import sys

import pytest
import torch

from pam_kit.contracts import RegionPrompt
from pam_kit.data.video import VideoWriter, open_video
from pam_kit.inference.stream_records import StreamSettings
from pam_kit.inference.streamer import RegionStream

SETTINGS = StreamSettings(clip_frames=4, read_every=0.2, frame_rate=10, max_new_tokens=2)

CHILD = """
import gc, importlib.util, json, sys, time
spec = importlib.util.spec_from_file_location("small_models", sys.argv[1])
small_models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small_models)
import torch
from pam_kit.contracts import RegionPrompt
from pam_kit.data.video import BackgroundFrames, open_video
from pam_kit.inference.annotated_video import AnnotatedStream
from pam_kit.inference.change_triggers import MaskChangeTrigger
from pam_kit.inference.commentary import comment
from pam_kit.inference.stream_records import StreamSettings
from pam_kit.inference.streamer import RegionStream
from pam_kit.inference.triggers import AnyTrigger, EveryTrigger
from pam_kit.inference.video_result import FramePrompt

torch.set_num_threads(1)

def held():
    gc.collect()
    tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor]
    pages = int(open("/proc/self/statm").read().split()[1])
    return {"tensors": len(tensors), "numbers": sum(one.numel() for one in tensors), "kib": pages * 4}

def looked_at(frames):
    for frame in frames:
        if frame.index in looks:
            found.append(held())
        yield frame
        del frame

found, looks = [], {int(word) for word in sys.argv[2].split(",")}
settings = StreamSettings(clip_frames=6, read_every=0.2, frame_rate=10, max_new_tokens=2)
stream = RegionStream(small_models.build_video_model(), settings)
trigger = AnyTrigger([EveryTrigger(1.0), MaskChangeTrigger()])
prompts = [FramePrompt(1, 0, RegionPrompt(box=(4, 10, 24, 30)))]
begin, said = time.perf_counter(), 0
with open_video(sys.argv[3]) as video, BackgroundFrames(video) as frames:
    with AnnotatedStream(sys.argv[4], video.frame_rate, 1) as annotated:
        for event in comment(looked_at(frames), stream, trigger, prompts, annotated.on_frame):
            annotated.on_event(event)
            said += 1
print(json.dumps({"found": found, "said": said, "seconds": time.perf_counter() - begin}))
"""


@pytest.fixture
def run(this_file, moving_square, tmp_path):
    """``run(looks, timeout)``: what is held before the frames ``looks``, the last of which ends the video."""

    def streamed(looks: list[int], timeout: float) -> dict:
        source, out, pictures = tmp_path / "in.mp4", tmp_path / "out.mp4", moving_square(40)
        with VideoWriter(source, 10, (80, 48)) as writer:
            for index in range(max(looks) + 1):
                writer.write(pictures[index % 40])
        arguments = [sys.executable, "-P", "-c", CHILD, this_file, ",".join(map(str, looks)), source, out]
        done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, done.stderr
        assert open_video(out).num_frames == max(looks) + 1
        return json.loads(done.stdout)

    return streamed


def assert_bounded(result: dict, looks: list[int], spare_kib: int) -> None:
    first, *later = result["found"]
    print(dict(zip(looks, result["found"], strict=True)), f"{result['said']} events, {result['seconds']:.0f} s")
    assert result["said"] >= max(looks) // 10
    for one in later:
        # At the same place of a clip and of SAM 2's memory, exactly the same is held.
        assert (one["tensors"], one["numbers"]) == (first["tensors"], first["numbers"])
        assert one["kib"] < first["kib"] + spare_kib


def test_a_longer_stream_keeps_no_more(run):
    """The encoder's own look ahead, 40 frames, is full by the first look; 30 annotated frames would be 22 MB more."""
    looks = [85, 115]
    assert_bounded(run(looks, 300), looks, spare_kib=8 << 10)


@pytest.mark.slow
def test_ten_thousand_frames_keep_no_more_than_five_hundred(run):
    looks = [505, 5005, 10005]
    assert_bounded(run(looks, 3600), looks, spare_kib=8 << 10)


def live() -> list[tuple[int, ...]]:
    gc.collect()
    return sorted(tuple(one.shape) for one in gc.get_objects() if type(one) is torch.Tensor)


def test_a_stream_that_is_never_asked_stops_reading(video_model, moving_square):
    """Its clip has at most so many frames; no prompt makes it longer."""
    stream, frames = RegionStream(video_model, SETTINGS), moving_square(30)
    for index, frame in enumerate(frames):
        if index % 2 == 0:
            stream.prompt(RegionPrompt(box=(4, 10, 24, 30)), 1)
        stream.push(frame)
        assert stream.followed[0].clip.count <= 3
    assert stream.describe()[0].frames_read == 4


def test_reports_and_frames_are_the_callers(video_model, moving_square):
    """What is held by a report, mask by mask, is all that a frame leaves behind."""
    stream, frames = RegionStream(video_model, SETTINGS), moving_square(30)
    stream.prompt(RegionPrompt(box=(4, 10, 24, 30)))
    reports = [stream.push(frame) for frame in frames[:22]]
    before = live()
    reports += [stream.push(frame) for frame in frames[22:]]
    after = live()
    del stream
    assert len(after) - len(before) == 8 and after.count((16, 16)) - before.count((16, 16)) == 8
    assert all(report.regions[1].mask_logits.untyped_storage().nbytes() == 16 * 16 * 4 for report in reports)


def test_a_region_that_is_removed_leaves_nothing(video_model, moving_square):
    stream, frames = RegionStream(video_model, SETTINGS), moving_square(45)
    stream.prompt(RegionPrompt(box=(4, 10, 24, 30)))
    for frame in frames[:21]:
        stream.push(frame)
    stream.describe()
    before = live()
    stream.prompt(RegionPrompt(box=(40, 10, 70, 30)))
    for frame in frames[21:41]:
        stream.push(frame)
    stream.describe()
    assert len(live()) > len(before)
    stream.remove(2)
    assert live() == before
