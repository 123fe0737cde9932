"""PAM's released formats: conversations, boxes of sizes, clips, and the streaming benchmark's mixed boxes."""

import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pam_kit.data.masks import encode_rle
from pam_kit.data.pam_clips import parse_streaming_line, parse_video_line, resolve_mixed_box
from pam_kit.data.pam_data import PamDataset, language_of, task_of
from pam_kit.errors import BrokenSample, PamKitError
from pam_kit.registry import find
from pam_kit.tasks import LANGUAGES, QUESTIONS

STREAMING = Path(__file__).parents[3] / "shared" / "data" / "pam_streaming" / "activitynet_streaming.jsonl"
needs_streaming = pytest.mark.skipif(not STREAMING.is_file(), reason=f"no streaming annotations at {STREAMING}")

RECOGNIZE, LABEL_ZH = "Classify this subject and provide its label.", "对该目标对象进行分类并给出标签"


def turns(*pairs):
    return [
        {"from": speaker, "value": value}
        for question, answer in pairs
        for speaker, value in (("human", f"<image>\n{question}"), ("gpt", answer))
    ]


def entry(**changes):
    line = {
        "image": "images/0.png",
        "conversations": turns((RECOGNIZE, " a cup ")),
        "bbox": [10, 5, 20, 30],
        "points": [[12, 8], [20, 30], [1, 1]],
        "labels": [1, 1, 0],
    }
    return {key: value for key, value in (line | changes).items() if value is not None}


@pytest.fixture
def make(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8)).save(tmp_path / "images" / "0.png")

    def build(*entries, **arguments):
        text = "\n".join(json.dumps(one, ensure_ascii=False) for one in entries)
        (tmp_path / "labels.jsonl").write_text(text, encoding="utf-8")
        return PamDataset(str(tmp_path / "labels.jsonl"), **arguments)

    return build


def test_box_of_sizes_becomes_corners(make):
    (region,) = make(entry())[0].regions
    assert region.prompt.box == (10, 5, 30, 35) and region.prompt.points == ()
    assert region.texts == {"recognize": {"en": "a cup"}}
    assert region.mask is None


@pytest.mark.parametrize(("prompts", "box", "num_points"), [("box", True, 0), ("points", False, 3), ("both", True, 3)])
@pytest.mark.parametrize("wrapped", [False, True])
def test_which_prompt_is_used(make, prompts, box, num_points, wrapped):
    one = entry()
    if wrapped:
        one |= {key: [one[key]] for key in ("bbox", "points", "labels")}
    prompt = make(one, prompts=prompts)[0].regions[0].prompt
    assert (prompt.box is not None) == box and len(prompt.points) == len(prompt.labels) == num_points


def test_the_prompt_that_is_there_is_used(make):
    assert make(entry(bbox=None))[0].regions[0].prompt.labels == (1, 1, 0)
    assert make(entry(points=None, labels=None), prompts="points")[0].regions[0].prompt.box == (10, 5, 30, 35)


def test_one_point(make):
    prompt = make(entry(bbox=None, points=[[12, 8]], labels=[1]))[0].regions[0].prompt
    assert prompt.points == ((12, 8),) and prompt.labels == (1,)


def test_boxes_overshoot_by_rounding_only(make):
    assert make(entry(bbox=[10, 5, 41.5, 36]))[0].regions[0].prompt.box == (10, 5, 50, 40)
    with pytest.raises(BrokenSample, match="does not fit a picture of 50x40"):
        make(entry(bbox=[10, 5, 45, 38]))[0]


def test_segmentation_is_the_mask(make):
    mask = np.zeros((40, 50), dtype=bool)
    mask[5:35, 10:30] = True
    assert np.array_equal(make(entry(segmentation=encode_rle(mask)))[0].regions[0].mask, mask)
    only_mask = make(entry(segmentation=encode_rle(mask), bbox=None, points=None, labels=None))[0].regions[0]
    assert only_mask.prompt is None


def test_several_turns_are_several_texts(make):
    one = entry(conversations=turns((RECOGNIZE, "cup"), (LABEL_ZH, "杯子"), ("Describe it.", "A cup of tea.")))
    dataset = make(one, default_task="describe")
    assert dataset[0].regions[0].texts == {
        "recognize": {"en": "cup", "zh": "杯子"},
        "describe": {"en": "A cup of tea."},
    }
    assert [*dataset.texts()] == ["cup", "杯子", "A cup of tea."]


@pytest.mark.parametrize("task", QUESTIONS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_question_of_the_kit_is_known(task, language):
    words = QUESTIONS[task][language]
    for variant in (words, f"<image>\n{words}", f"{words.rstrip('.')} ", f"{words}。"):
        assert task_of(variant, "none") == task
        assert language_of(variant) == language


def test_other_questions_have_the_default_task():
    assert task_of("<image>\n对该视频中的目标对象提供一个描述。", "caption") == "caption"
    assert task_of("What is this?", "describe") == "describe"
    assert language_of("<image>\nWhat is this?") == "en"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bbox": [10, 5, -3, 30]}, "a width and a height above 0"),
        ({"bbox": [10, 5, 20]}, "bbox must be one box"),
        ({"bbox": [[1, 2, 3, 4], [1, 2, 3, 4]]}, "bbox must be one box"),
        ({"bbox": None, "labels": [1]}, "3 points but 1 labels"),
        ({"bbox": None, "labels": [0, 0, 0]}, "only negative points"),
        ({"bbox": None, "labels": None}, "3 points but 0 labels"),
        ({"bbox": None, "points": None, "labels": None}, "nothing points at it"),
        ({"conversations": turns()}, "pairs of a question and an answer"),
        ({"conversations": turns((RECOGNIZE, "cup"))[:1]}, "pairs of a question"),
        ({"conversations": turns((RECOGNIZE, "cup"))[::-1]}, '"from": "human"'),
        ({"conversations": turns((RECOGNIZE, "cup"), (RECOGNIZE, "mug"))}, "two answers for the task recognize in en"),
        ({"conversations": turns((RECOGNIZE, "  "))}, "non-empty text"),
        ({"conversations": None}, "pairs"),
        ({"image": None}, "give either image"),
        ({"image": "images/1.png"}, "does not exist"),
        ({"type": "video", "frames": ["0.jpg"]}, "the dataset pam_clips reads clips"),
    ],
)
def test_broken_lines(make, changes, reason):
    with pytest.raises(BrokenSample, match=f"labels.jsonl:2: .*{reason}"):
        make(entry(), entry(**changes))[1]


def test_wrong_arguments(make):
    with pytest.raises(PamKitError, match="unknown prompts 'mask'; choose box, points, both"):
        make(entry(), prompts="mask")
    with pytest.raises(PamKitError, match="unknown default_task 'label'; choose recognize"):
        make(entry(), default_task="label")


def test_pickled_it_is_the_same(make):
    dataset = make(entry(), entry(image="images/gone.png"))
    other = pickle.loads(pickle.dumps(dataset))
    assert other[0].regions == dataset[0].regions and len(other) == 2
    assert [*dataset.texts()] == ["a cup", "a cup"]


def test_registered_with_documented_arguments():
    spec = find("dataset", "pam_data")
    assert all(p.doc for p in spec.parameters) and spec.load() is PamDataset


CLIP = {
    "type": "video",
    "image_root": "frames/clip_7",
    "frames": ["00000.jpg", "00001.jpg", "00002.jpg"],
    "masked_frames": ["00001.jpg", "00002.jpg"],
    "conversations": turns(("对该视频中的目标对象提供一个描述。\n历史描述：无", "一只猫走过。")),
    "bbox": [[6, 7, 10, 20], [8, 7, 10, 20]],
    "points": [[[8, 9]], [[9, 9]]],
    "labels": [[1], [1]],
    "obj_id": "2",
}


def test_a_video_line_is_a_clip():
    record = parse_video_line(json.dumps(CLIP, ensure_ascii=False), "v.jsonl:1")
    assert record.frames == tuple(f"frames/clip_7/0000{i}.jpg" for i in range(3))
    (region,) = record.regions
    assert (region.id, region.box, region.frame) == ("2", (6, 7, 16, 27), 1)
    assert region.texts == {"caption": {"zh": "一只猫走过。"}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"masked_frames": ["00009.jpg"]}, "'00009.jpg' is not among the clip's frames"),
        ({"bbox": [[6, 7, 10, 20]]}, "one box for each of the 2 masked_frames"),
        ({"frames": None}, "needs image_root, frames"),
    ],
)
def test_broken_video_lines(changes, reason):
    with pytest.raises(BrokenSample, match=reason):
        parse_video_line(json.dumps(CLIP | changes), "v.jsonl:1")


@pytest.mark.parametrize(
    ("box", "corners", "convention"),
    [
        ((10, 20, 30, 40), (10, 20, 40, 60), "xywh"),
        ((60, 20, 30, 40), (60, 20, 90, 60), "xywh"),  # cannot be corners
        ((10, 20, 92, 62), (10, 20, 100, 80), "xywh"),  # two pixels over
        ((60, 20, 99, 70), (60, 20, 99, 70), "xyxy"),  # leaves the frame as sizes
        ((60, 20, 102, 70), (60, 20, 100, 70), "xyxy"),
        ((60, 20, 50, 30), (60, 20, 100, 50), "cut"),  # neither fits
        ((-5, 20, 30, 40), (0, 20, 25, 60), "xywh"),
    ],
)
def test_mixed_boxes_by_the_frame_they_lie_in(box, corners, convention):
    assert resolve_mixed_box(box, width=100, height=80) == (corners, convention)


def test_a_mixed_box_outside_the_frame_is_refused():
    with pytest.raises(ValueError, match="no part in a frame"):
        resolve_mixed_box((200, 20, 30, 40), 100, 80)


def event(**changes):
    return {"event_id": 1, "frames": ["0.jpg"], "gt": " A cat.", "box": [[1, 2, 3, 4]]} | changes


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"image_root": "/x/v1", "annotations": []}, "needs image_root and a list"),
        ({"image_root": "/x/v1", "annotations": [event(), event(box=[1, 2, 3, 4])]}, "event 2: .*one list of four"),
        ({"image_root": "/x/v1", "annotations": [event(box=[[500, 2, 3, 4]])]}, "event 1: .*no part in a frame"),
        ({"image_root": "/x/v1", "annotations": [event(gt="  ")]}, "non-empty text"),
        ({"image_root": "/x/v1", "annotations": [event(frames=[])]}, "needs frames"),
        ({"image_root": "/x/v1", "annotations": ["x"]}, "an event is a JSON object"),
    ],
)
def test_broken_streaming_lines(line, reason):
    with pytest.raises(BrokenSample, match=reason):
        parse_streaming_line(json.dumps(line), "s.jsonl:4", lambda _: (100, 80))


@needs_streaming
def test_released_streaming_annotations():
    raw = [json.loads(line) for line in STREAMING.read_text(encoding="utf-8").splitlines()]
    boxes = {f"{Path(v['image_root']).name}:{e['event_id']}": e["box"][0] for v in raw for e in v["annotations"]}
    asked = []

    def frame_size(path):
        asked.append(path)
        return 1920, 1080

    clips, outside = [], 0
    for number, line in enumerate(STREAMING.read_text(encoding="utf-8").splitlines(), 1):
        try:
            clips.append(parse_streaming_line(line, f"{STREAMING.name}:{number}", frame_size))
        except BrokenSample as broken:
            assert "no part in a frame" in broken.reason
            outside += 1
    records = [record for clip in clips for record in clip]
    # The real frames are of several sizes: read as 1920x1080, boxes of upright videos may lie below the frame.
    assert len(raw) == 334 and len(clips) == 334 - outside and outside < 10
    assert len(boxes) == 945 and len(asked) >= len(records)
    conventions = Counter(record.regions[0].attributes["box_convention"] for record in records)
    assert conventions["xyxy"] > 0 and conventions["xywh"] > 242
    no_corners = {name for name, (x1, y1, x2, y2) in boxes.items() if x2 <= x1 or y2 <= y1}
    assert len(no_corners) == 242
    for record in records:
        (region,) = record.regions
        x1, y1, x2, y2 = region.box
        assert 0 <= x1 < x2 <= 1920 and 0 <= y1 < y2 <= 1080
        assert not (region.id in no_corners and region.attributes["box_convention"] == "xyxy")
        assert region.texts["caption"]["en"] == region.texts["caption"]["en"].strip()
    assert sum(len(record.frames) < 16 for record in records) <= 232
    assert records[0].frames[0] == "V_djpr7UMlnSw/00000.jpg"
