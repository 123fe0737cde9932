"""Clips: which frames are read, the three line formats, and the batches they become."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pam_kit.contracts import ClipBatch, ClipSample, Region, RegionPrompt
from pam_kit.data.check import check_dataset
from pam_kit.data.clip_dataset import ClipDataset
from pam_kit.data.clips import sampled_frames
from pam_kit.data.jsonl import JsonlDataset
from pam_kit.data.mixture import Mixture
from pam_kit.data.pictures import read_picture
from pam_kit.data.prepare import Geometry
from pam_kit.data.training import Drawn, TrainingView, collate_training
from pam_kit.errors import BrokenSample, PamKitError, PromptError
from pam_kit.sections import ComponentChoice, DataSection
from pam_kit.tasks import clip_question

GEOMETRY = Geometry(64, (16, 16))


@pytest.mark.parametrize("count", [16, 17, 20, 31, 100])
def test_sixteen_frames_are_the_first_and_fifteen_spread_behind_it(count):
    """By the formula of the released sampling: frame i of the others is the whole part of 1 + i (count - 2) / 14."""
    expected = [0] + [int(1 + i * (count - 2) / 14 + 1e-9) for i in range(15)]
    assert sampled_frames(count, 16) == expected
    assert len(set(expected)) == 16 and expected[-1] == count - 1


def test_short_clips_are_read_whole_or_refused():
    assert sampled_frames(5, 16) == [0, 1, 2, 3, 4] == sampled_frames(5, 5)
    assert sampled_frames(9, 1) == [0]
    with pytest.raises(PromptError, match="has 5 frames; at least 16 are needed"):
        sampled_frames(5, 16, short="refuse")
    with pytest.raises(PromptError, match="at least 1"):
        sampled_frames(0, 16)


def write_frames(folder: Path, count: int, size: tuple[int, int] = (32, 24)) -> list[str]:
    """Frames of which frame i has the colour (i, 0, 0)."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:05d}.png" for i in range(count)]
    for i, name in enumerate(names):
        Image.new("RGB", size, (i, 0, 0)).save(folder / name)
    return names


@pytest.fixture
def line(tmp_path):
    """``line(entry, ...)`` -> the file of these lines, beside the folder ``walk`` of 20 frames of 32x24."""
    write_frames(tmp_path / "walk", 20)

    def write(*entries: dict) -> str:
        file = tmp_path / "clips.jsonl"
        file.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
        return str(file)

    return write


def clip(frames: int = 20, **changes) -> dict:
    region = {"id": "man", "box": [4, 2, 20, 22], "texts": {"caption": {"en": "The man walks.", "zh": "他走。"}}}
    return {"frames": [f"walk/{i:05d}.png" for i in range(frames)], "regions": [region | changes]}


def test_frames_are_read_when_they_are_looked_at(line, tmp_path):
    sample = ClipDataset(line(clip()))[0]
    (tmp_path / "walk" / "00007.png").unlink()
    assert len(sample.frames) == 20 and [sample.frames[i][0, 0, 0] for i in (0, 3, 19)] == [0, 3, 19]
    with pytest.raises(BrokenSample, match="00007.png' does not exist"):
        sample.frames[7]


def test_the_first_frame_is_decoded_once_and_no_other_is_kept(line, monkeypatch):
    decoded = []

    def counted(path, source):
        decoded.append(path.name)
        return read_picture(path, source)

    monkeypatch.setattr("pam_kit.data.clips.read_picture", counted)
    drawn = view(ClipDataset(line(clip()))[0], clip_frames=3)[0]
    assert drawn.item.frames[:, 0, 0, 0].tolist() == [0, 1, 19]
    assert decoded == ["00000.png", "00001.png", "00019.png"]
    frames = ClipDataset(line(clip()))[0].frames
    assert frames[0] is frames[-20] and frames[-1][0, 0, 0] == 19 and frames[19] is not frames[19]
    with pytest.raises(IndexError):
        frames[20]


def test_a_clip_begins_where_its_region_is_pointed_at(line):
    sample = ClipDataset(line(clip(frame=6)))[0]
    assert len(sample.frames) == 14 and sample.frames[0][0, 0, 0] == 6


def test_frames_of_different_sizes_are_broken(line, tmp_path):
    Image.new("RGB", (40, 24)).save(tmp_path / "walk" / "00002.png")
    sample = ClipDataset(line(clip()))[0]
    assert sample.frames[0].shape == (24, 32, 3)
    with pytest.raises(BrokenSample, match="has 40x24 pixels, others of the clip 32x24"):
        sample.frames[2]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (clip() | {"image": "a.png"}, "either image"),
        (clip(box=[4, 2, 50, 22]), "does not fit a picture of 32x24"),
        (
            clip() | {"regions": [clip()["regions"][0], clip(id="dog", frame=3)["regions"][0]]},
            "pointed at in different frames \\(0, 3\\)",
        ),
        (clip() | {"history": {"fr": "Un homme."}}, "unknown language 'fr'"),
        ({"image": "walk/00000.png", "regions": clip()["regions"]}, "a picture; this dataset reads clips"),
    ],
)
def test_broken_clips_say_why(line, entry, reason):
    with pytest.raises(BrokenSample, match=reason):
        ClipDataset(line(entry))[0]


def test_pam_data_and_streaming_lines(line, tmp_path):
    frames = [f"{i:05d}.png" for i in range(20)]
    pam = {
        "type": "video",
        "image_root": "walk",
        "frames": frames,
        "masked_frames": [frames[2]],
        "bbox": [[4, 2, 16, 20]],
        "conversations": [
            {"from": "human", "value": "<image>\n" + clip_question("caption", "en")},
            {"from": "gpt", "value": "The man walks."},
        ],
    }
    sample = ClipDataset(line(pam), format="pam_data")[0]
    assert len(sample.frames) == 18 and sample.regions[0].prompt == RegionPrompt(box=(4, 2, 20, 22))
    assert sample.regions[0].texts == {"caption": {"en": "The man walks."}}
    events = [
        {"event_id": 1, "frames": frames[:8], "gt": " He walks.", "box": [[4, 2, 16, 20]]},
        {"event_id": 2, "frames": frames[8:], "gt": "He stops.", "box": [[4, 2, 16, 20]]},
    ]
    video = {"type": "video", "image_root": "/somewhere/walk", "annotations": events}
    streaming = ClipDataset(line(video, video), format="pam_streaming")
    assert len(streaming) == 4
    first, second = streaming[0], streaming[3]
    assert (first.history, second.history) == ({}, {"en": "He walks."})
    assert [len(first.frames), len(second.frames)] == [8, 12] and second.frames[0][0, 0, 0] == 8
    assert list(streaming.texts())[:2] == ["He walks.", "He stops."]
    report = check_dataset(streaming)
    assert report.clips == 4 and report.pictures == 0 and not report.broken


def test_other_arguments_are_refused(line):
    with pytest.raises(PamKitError, match="unknown default_task 'sing'"):
        ClipDataset(line(clip()), default_task="sing")
    with pytest.raises(BrokenSample, match="the dataset clips reads clips"):
        JsonlDataset(line(clip()))[0]


class Stub(list):
    clips = True


def view(sample: ClipSample, **changes) -> TrainingView:
    section = DataSection(train=ComponentChoice("stub"), tasks={"caption": 1}, **changes)
    return TrainingView(Mixture.of(Stub([sample]), 0), section, GEOMETRY, seed=0)


def made(frames: int = 20, history: dict[str, str] | None = None) -> ClipSample:
    mask = np.zeros((24, 32), dtype=bool)
    mask[4:20, 8:24] = True
    pictures = [np.full((24, 32, 3), i, dtype=np.uint8) for i in range(frames)]
    region = Region("man", mask=mask, texts={"caption": {"en": "The man walks.", "zh": "他走。"}})
    return ClipSample("clips.jsonl:1", pictures, [region], history or {})


@pytest.mark.parametrize(("tracking", "frames"), [("read", [0, 1, 7, 13, 19]), ("all", list(range(20)))])
def test_the_frames_that_are_read_are_those_that_were_sampled(tracking, frames):
    item = view(made(), clip_frames=5, clip_tracking=tracking)[0].item
    assert item.frames.shape == (len(frames), 3, 64, 64)
    assert item.frames[:, 0, 0, 0].tolist() == frames
    assert item.frames[item.read, 0, 0, 0].tolist() == [0, 1, 7, 13, 19]


def test_what_was_said_before_is_in_the_question():
    asked = {
        one.language: one.question
        for position in range(30)
        for one in view(made(history={"en": "He sat."}))[position].item.first.asked
    }
    assert asked == {
        "en": "Provide a caption for this subject in this video.\nPrevious caption: He sat.",
        "zh": "对该视频中的目标对象提供一个描述。\n历史描述：无",
    }


def test_clips_become_a_batch_of_their_own():
    long, short = (view(made(frames), clip_frames=4)[0] for frames in (20, 3))
    batch, broken = collate_training([long, short], GEOMETRY)
    assert isinstance(batch, ClipBatch) and broken == []
    assert [frames.shape[0] for frames in batch.frames] == [4, 3] and batch.read == [[0, 1, 2, 3], [0, 1, 2]]
    assert batch.clip_index.tolist() == [0, 1] and batch.has_target.all() and len(batch.questions) == 2
    assert torch.equal(batch.frames[0][0, 0], batch.frames[1][0, 0])
    # The meta device holds nothing, so what is still equal was not moved.
    moved = batch.to("meta")
    assert all(kept is frames for kept, frames in zip(moved.frames, batch.frames, strict=True))
    assert moved.read == batch.read and moved.questions.questions == batch.questions.questions
    there = [moved.clip_index, moved.prompts.points, moved.questions.region_index, moved.target_masks, moved.has_target]
    assert all(tensor.is_meta for tensor in there) and not batch.clip_index.is_meta
    with pytest.raises(PamKitError, match="pictures or clips, not both"):
        collate_training([long, Drawn(long.item.first)], GEOMETRY)


def test_lengths_are_frames_first_then_characters(tmp_path):
    lines = [
        {
            "frames": ["a.png"] * 3,
            "regions": [{"id": "0", "box": [0, 0, 4, 4], "texts": {"caption": {"en": "x" * 50}}}],
        },
        {"frames": ["a.png"] * 30, "regions": [{"id": "0", "box": [0, 0, 4, 4], "texts": {"caption": {"en": "x"}}}]},
        {"frames": ["a.png"] * 3, "regions": [{"id": "0", "box": [0, 0, 4, 4], "texts": {"caption": {"zh": "x" * 9}}}]},
        {"frames": []},
    ]
    path = tmp_path / "clips.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    lengths = ClipDataset(str(path)).lengths(16)
    assert np.argsort(lengths).tolist() == [3, 2, 0, 1] and lengths[3] == 0
    # Behind the frames that are read, no frame counts.
    assert ClipDataset(str(path)).lengths(3)[1] < ClipDataset(str(path)).lengths(3)[2]
