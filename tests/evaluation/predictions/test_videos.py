"""Answers about clips and streams, against a tracker and a stream that are told the same by hand."""

import numpy as np
import pytest
from PIL import Image

from pam_kit.contracts import RegionPrompt
from pam_kit.data.masks import decode_rle
from pam_kit.data.video import VideoWriter, open_video
from pam_kit.errors import PamKitError
from pam_kit.evaluation.predictions.ledger import BROKEN, SEEN
from pam_kit.evaluation.predictions.settings import PredictionSettings
from pam_kit.evaluation.predictions.videos import answer_clip, answer_stream, pointed_at, read_clip
from pam_kit.evaluation.records import RegionRecord
from pam_kit.inference.stream_records import StreamSettings
from pam_kit.inference.streamer import RegionStream
from pam_kit.inference.tracker import VideoPredictor
from pam_kit.inference.video_result import FramePrompt
from pam_kit.tasks import clip_question

SHORT = PredictionSettings(max_new_tokens=4, num_frames=5)
BOX, OTHER = (4.0, 10.0, 24.0, 30.0), (40.0, 5.0, 70.0, 40.0)
NAMES = tuple(f"{index:05d}.png" for index in range(20))


def record(id: str, box=BOX, **facts) -> RegionRecord:
    known = {"question": clip_question("caption", "en"), "references": ("a",), "video": "video", "frames": NAMES}
    return RegionRecord(id, "any", **{**known, "prompt": {"box": list(box)}, **facts})


@pytest.mark.parametrize(
    ("prompted", "read"), [(0, [0, 1, 7, 13, 19]), (12, [0, 6, 12, 13, 19]), (19, [0, 6, 12, 18, 19])]
)
def test_the_prompted_frame_is_read_and_the_others_are_spread(frames, tmp_path, prompted, read):
    found, place = read_clip(tmp_path, record("1", frame_index=prompted), 5)
    chosen = [next(i for i, frame in enumerate(frames) if np.array_equal(frame, one)) for one in found]
    assert chosen[place] == prompted and len(chosen) == 5
    # Both ends are in, and nothing is twice.
    assert chosen[0] == 0 and chosen[-1] == 19 and chosen == sorted(set(chosen))
    if prompted == 0:
        assert chosen == read  # as PAM's own sampling has it


def test_frames_of_files_by_number_and_of_folders_by_name(frames, tmp_path):
    with VideoWriter(tmp_path / "film.mp4", 10, (80, 48)) as writer:
        for frame in frames:
            writer.write(frame)
    decoded = [frame.image for frame in open_video(tmp_path / "film.mp4")]
    found, _ = read_clip(tmp_path, record("1", video="film.mp4", frames=(2, 9, 17)), None)
    assert all(np.array_equal(one, decoded[index]) for one, index in zip(found, (2, 9, 17), strict=True))
    assert len(read_clip(tmp_path, record("1", video="film.mp4", frames=()), None)[0]) == 20
    assert len(read_clip(tmp_path, record("1", frames=()), None)[0]) == 20
    image, prompt = pointed_at(tmp_path, record("1", frame_index=7))
    assert np.array_equal(image, frames[7]) and prompt == RegionPrompt(box=BOX)


def test_a_clip_is_tracked_once_for_all_its_regions(tracking, frames, tmp_path, monkeypatch):
    records = [record("1", frame_index=12), record("2", OTHER, frame_index=12), record("3", frame_index=12)]
    encode, encoded = tracking.model.backbone.encode, []
    monkeypatch.setattr(tracking.model.backbone, "encode", lambda images: encoded.append(1) or encode(images))
    found = {one.id: one for one in answer_clip(tracking, tmp_path, records, SHORT)}
    clip, place = read_clip(tmp_path, records[0], 5)
    assert len(encoded) == len(clip) + 1  # the prompted frame once in each direction
    prompts = [FramePrompt(n, place, RegionPrompt(box=box)) for n, box in ((1, BOX), (2, OTHER))]
    expected = VideoPredictor(tracking.model, "cpu").predict(clip, prompts, max_new_tokens=4, sampler="all")
    said = [region.texts["caption"]["en"].text for region in expected.regions]
    assert [found[id].prediction for id in "123"] == [said[0], said[1], said[0]]
    masks = [region.frames[place].segmentation for region in expected.regions]
    assert [found[id].meta[SEEN]["mask"] for id in "123"] == [masks[0], masks[1], masks[0]] and masks[0] != masks[1]


def test_a_clip_is_asked_in_the_words_of_its_record(tracking, frames, tmp_path, monkeypatch):
    generate, asked = tracking.model.decoder.generate, []

    def counted(prefix, questions, max_new_tokens):
        asked.extend(questions.questions)
        return generate(prefix, questions, max_new_tokens)

    monkeypatch.setattr(tracking.model.decoder, "generate", counted)
    list(answer_clip(tracking, tmp_path, [record("1", question="What does it do?")], SHORT))
    list(answer_clip(tracking, tmp_path, [record("1")], SHORT))
    assert asked == ["What does it do?", clip_question("caption", "en")]


EVENTS = ((0, 3), (3, 5), (5, 8))


def events(**facts) -> list[RegionRecord]:
    boxes = (BOX, OTHER, BOX)
    return [
        record(str(n), boxes[n], frames=NAMES[start:stop], group="v", **facts) for n, (start, stop) in enumerate(EVENTS)
    ]


@pytest.mark.parametrize("boxes", ["propagate", "gt_per_event"])
def test_events_are_streamed_with_their_history(tracking, frames, tmp_path, boxes):
    settings = PredictionSettings(max_new_tokens=4, stream_boxes=boxes)
    found = list(answer_stream(tracking, tmp_path, events(), settings))
    stream = RegionStream(
        tracking.model, StreamSettings(clip_frames=4, read_every=0.0, memory=False, max_new_tokens=4), "cpu"
    )
    expected = []
    for number, (start, stop) in enumerate(EVENTS):
        if number == 0 or boxes == "gt_per_event":
            stream.prompt(RegionPrompt(box=(BOX, OTHER, BOX)[number]), 1)
        for frame in frames[start:stop]:
            stream.push(frame)
        (said,) = stream.describe([1])
        # The carried frame is read besides those of the event.
        assert said.frames_read == stop - start + (number > 0)
        expected.append(said.texts["caption"]["en"].text if said.texts else "")
    assert [one.prediction for one in found] == expected
    assert all(decode_rle(one.meta[SEEN]["mask"]).shape == (48, 80) for one in found)


def test_where_the_second_event_is_pointed_at_makes_a_difference(tracking, frames, tmp_path):
    masks = []
    for boxes in ("propagate", "gt_per_event"):
        found = list(answer_stream(tracking, tmp_path, events(), PredictionSettings(4, stream_boxes=boxes)))
        masks.append([one.meta[SEEN]["mask"] for one in found])
    assert masks[0][0] == masks[1][0] and masks[0][1] != masks[1][1]


def test_a_clip_that_cannot_be_read_is_told(tracking, frames, tmp_path):
    (tmp_path / "video" / "bad.png").write_text("no picture")
    Image.fromarray(frames[0][:40]).save(tmp_path / "video" / "small.png")
    wrong = {
        "there is no video": record("1", video="nowhere"),
        "is not a picture": record("1", frames=(*NAMES[:3], "bad.png")),
        "not of one size": record("1", frames=(*NAMES[:3], "small.png")),
        "frame 20 is pointed at, but the clip has 20 frames": record("1", frame_index=20),
        "does not fit": record("1", (0.0, 0.0, 81.0, 10.0)),
    }
    for message, one in wrong.items():
        (told,) = answer_clip(tracking, tmp_path, [one], SHORT)
        assert told.prediction is None and message in told.meta[BROKEN]


def test_behind_an_event_that_cannot_be_read_a_stream_does_not_go_on(tracking, frames, tmp_path):
    first, second, third = events()
    (tmp_path / "video" / "00004.png").unlink()
    found = list(answer_stream(tracking, tmp_path, [first, second, third], SHORT))
    assert found[0].prediction is not None and "00004.png' does not exist" in found[1].meta[BROKEN]
    assert "the stream broke off before" in found[2].meta[BROKEN]


def test_a_decoder_without_room_is_no_broken_video(tracking, frames, tmp_path):
    with pytest.raises(PamKitError, match="--max-new-tokens"):
        list(answer_clip(tracking, tmp_path, [record("1")], PredictionSettings(max_new_tokens=4096)))
    with pytest.raises(PamKitError, match="--max-new-tokens"):
        list(answer_stream(tracking, tmp_path, events(), PredictionSettings(max_new_tokens=4096)))


@pytest.mark.parametrize(
    ("facts", "message"),
    [({"max_new_tokens": 0}, "max_new_tokens is 0"), ({"stream_boxes": "none"}, "choose from propagate, gt_per_event")],
)
def test_settings_that_are_no_good(facts, message):
    with pytest.raises(PamKitError, match=message):
        PredictionSettings(**facts)


def test_a_benchmark_may_point_into_every_frame(tracking, frames, tmp_path, monkeypatch):
    boxes = {"0": BOX, "1": BOX, "2": OTHER, "3": OTHER}
    prompts = {place: {"box": list(box)} for place, box in boxes.items()}
    given, predict = [], VideoPredictor.predict

    def predicted(self, source, typed, *rest, **options):
        given.extend(typed)
        return predict(self, source, typed, *rest, **options)

    monkeypatch.setattr(VideoPredictor, "predict", predicted)
    records = [record("1", frames=NAMES[::5], meta={"prompts": prompts}), record("2", frames=NAMES[::5])]
    (first, second) = answer_clip(tracking, tmp_path, records, SHORT)
    assert [(one.region, one.frame, one.prompt.box) for one in given] == [
        *((1, int(place), box) for place, box in boxes.items()),
        (2, 0, BOX),
    ]
    assert first.meta[SEEN]["mask"] == second.meta[SEEN]["mask"]  # of the first frame, where both point at the same
