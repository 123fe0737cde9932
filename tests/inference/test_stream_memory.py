"""A stream keeps nothing that it will not need: live tensors, and the resident memory of a process of its own."""

import gc
import json
import subprocess
import sys

import pytest
import torch

from pam_kit.contracts import RegionPrompt
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
from pam_kit.data.video import Frame
from pam_kit.inference.commentary import comment
from pam_kit.inference.stream_records import StreamSettings
from pam_kit.inference.streamer import RegionStream
from pam_kit.inference.triggers import AnyTrigger, EveryTrigger, MaskChangeTrigger
from pam_kit.inference.video_result import FramePrompt

torch.set_num_threads(1)

def held():
    gc.collect()
    tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor]
    pages = int(open("/proc/self/statm").read().split()[1])
    return {"tensors": len(tensors), "numbers": sum(one.numel() for one in tensors), "kib": pages * 4}

def coming(count, looks):
    pictures = small_models.square_frames(40)
    for index in range(count):
        if index in looks:
            found.append(held())
        yield Frame(pictures[index % 40].copy(), index / 10, index)

found, looks = [], {int(word) for word in sys.argv[2].split(",")}
settings = StreamSettings(clip_frames=6, read_every=0.2, frame_rate=10, max_new_tokens=2)
stream = RegionStream(small_models.build_video_model(), settings)
trigger = AnyTrigger([EveryTrigger(1.0), MaskChangeTrigger()])
prompts = [FramePrompt(1, 0, RegionPrompt(box=(4, 10, 24, 30)))]
begin, said = time.perf_counter(), 0
for event in comment(coming(max(looks) + 1, looks), stream, trigger, prompts):
    said += 1
print(json.dumps({"found": found, "said": said, "seconds": time.perf_counter() - begin}))
"""


def run(this_file, looks: list[int], timeout: float) -> dict:
    arguments = [sys.executable, "-P", "-c", CHILD, str(this_file), ",".join(map(str, looks))]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_bounded(result: dict, looks: list[int], spare_kib: int) -> None:
    first, *later = result["found"]
    print(dict(zip(looks, result["found"], strict=True)), f"{result['said']} events, {result['seconds']:.0f} s")
    assert result["said"] >= max(looks) // 10
    for one in later:
        # At the same place of a clip and of SAM 2's memory, exactly the same is held.
        assert (one["tensors"], one["numbers"]) == (first["tensors"], first["numbers"])
        assert one["kib"] < first["kib"] + spare_kib


def test_a_longer_stream_keeps_no_more(this_file):
    looks = [55, 155, 255]
    assert_bounded(run(this_file, looks, 300), looks, spare_kib=8 << 10)


@pytest.mark.slow
def test_ten_thousand_frames_keep_no_more_than_five_hundred(this_file):
    looks = [505, 5005, 10005]
    assert_bounded(run(this_file, looks, 3600), looks, spare_kib=8 << 10)


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
