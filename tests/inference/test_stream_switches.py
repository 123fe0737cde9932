"""The three switches of streaming, carry, history and memory: each has its effect, and only that one."""

import numpy as np
import pytest
import torch

from pam_kit.contracts import RegionPrompt
from pam_kit.inference.stream_records import StreamSettings
from pam_kit.inference.streamer import RegionStream
from pam_kit.tasks import clip_question

BOX = RegionPrompt(box=(4, 10, 24, 30))
LATER, SEMANTIC = 1, 3


class Recorded:
    """What a stream of two clips of four frames each asked and read, and which boxes it pointed at by itself."""

    def __init__(self, model, frames, monkeypatch, asked=("caption",), **switches):
        self.asked: list[list[str]] = []
        self.read: list[tuple[int, torch.Tensor]] = []
        self._model, start = model, model.decoder.start_reading
        monkeypatch.setattr(model.decoder, "start_reading", lambda count: self._recorded(start(count)))
        settings = StreamSettings(
            asked, ("en", "zh"), clip_frames=8, read_every=0.0, frame_rate=10, max_new_tokens=6, **switches
        )
        stream = RegionStream(model, settings)
        stream.prompt(BOX)
        self.reports, self.said = [], []
        for index, frame in enumerate(frames):
            self.reports.append(stream.push(frame))
            if index % 4 == 3:
                self.said += stream.describe()

    def _recorded(self, reading):
        number, read, answer = len(getattr(self, "readings", [])), reading.read, reading.answer
        self.readings = [*getattr(self, "readings", []), reading]

        def asked(questions, *rest):
            self.asked.append(questions.questions)
            return answer(questions, *rest)

        reading.read = lambda embeddings: (self.read.append((number, embeddings.clone())), read(embeddings))[1]
        reading.answer = asked
        return reading

    def lengths(self, clip: int) -> list[int]:
        return [embeddings.shape[1] for number, embeddings in self.read if number == clip]

    def logits(self) -> list[torch.Tensor]:
        return [report.regions[1].mask_logits for report in self.reports]

    def pointed(self) -> dict[int, RegionPrompt]:
        return {report.index: report.pointed[1] for report in self.reports if report.pointed}


@pytest.fixture
def record(video_model, moving_square, monkeypatch):
    def run(**switches):
        with monkeypatch.context() as patching:
            return Recorded(video_model, moving_square(12), patching, **switches)

    return run


@pytest.fixture
def everything(record):
    return record()


FIRST_LENGTH, LATER_LENGTH = 4 + SEMANTIC + 3, LATER + SEMANTIC + 3


def test_all_together(everything):
    said = [{language: one.text for language, one in each.texts["caption"].items()} for each in everything.said]
    for clip in range(3):
        before = {} if clip == 0 else said[clip - 1]
        expected = [clip_question("caption", language, before.get(language)) for language in ("en", "zh")]
        assert everything.asked[clip] == expected
    assert "Previous caption: None" in everything.asked[0][0] and "历史描述：无" in everything.asked[0][1]
    assert f"Previous caption: {said[0]['en']}" in everything.asked[1][0] and said[0]["en"]
    assert everything.lengths(0) == [FIRST_LENGTH, *[LATER_LENGTH] * 3]
    # The last frame of a clip is read twice: at its end as a later frame, and anew with all its tokens.
    assert everything.lengths(1) == [FIRST_LENGTH, *[LATER_LENGTH] * 4]
    assert list(everything.pointed()) == [0]


def test_without_carry_a_clip_begins_with_its_own_first_frame(record, everything):
    found = record(carry=False)
    assert found.lengths(0) == everything.lengths(0)
    assert found.lengths(1) == found.lengths(2) == [FIRST_LENGTH, *[LATER_LENGTH] * 3]
    assert [one.frames_read for one in found.said] == [4, 4, 4]
    assert [one.frames_read for one in everything.said] == [4, 5, 5]
    # Masks and the form of the question stay.
    assert all(torch.equal(one, other) for one, other in zip(found.logits(), everything.logits(), strict=True))
    assert found.said[0] == found.said[0] and found.said[0].texts == everything.said[0].texts
    assert found.said[0].texts["caption"]["en"].text in found.asked[1][0]
    assert (found.said[1].start, found.said[1].end) == (everything.said[1].start, everything.said[1].end)


def test_without_history_the_question_is_always_the_same(record, everything):
    found = record(history=False)
    assert found.asked[0] == found.asked[1] == found.asked[2] == everything.asked[0]
    assert len(found.read) == len(everything.read)
    for (clip, one), (other_clip, other) in zip(found.read, everything.read, strict=True):
        assert clip == other_clip and torch.equal(one, other)
    assert found.said[0].texts == everything.said[0].texts and found.said[1].texts != everything.said[1].texts


def test_without_memory_a_clip_begins_by_pointing_at_the_last_box(record, everything, moving_square):
    found = record(memory=False)
    assert list(found.pointed()) == [0, 4, 8]
    for index in (4, 8):
        assert found.pointed()[index] == RegionPrompt(box=found.reports[index - 1].regions[1].box())
    for index in range(4):
        assert torch.equal(found.logits()[index], everything.logits()[index])
    assert not torch.equal(found.logits()[4], everything.logits()[4])
    # Nothing is left of the frames before: a stream that begins there with that box shows the same.
    fresh = RegionStream(found._model, StreamSettings(read_every=0.0, frame_rate=10))
    fresh.prompt(found.pointed()[4])
    for frame, expected in zip(moving_square(8)[4:], found.logits()[4:8], strict=True):
        assert torch.equal(fresh.push(frame).regions[1].mask_logits, expected)
    # Carry and history are as they were.
    assert [len(found.lengths(clip)) for clip in range(3)] == [4, 5, 5]
    assert f"Previous caption: {found.said[0].texts['caption']['en'].text}" in found.asked[1][0]
    torch.testing.assert_close(found.read[4][1], everything.read[4][1], atol=1e-5, rtol=0)


def test_without_memory_an_object_out_of_sight_is_looked_for_where_it_was_last(record, hidden):
    hidden({2, 3})
    found = record(memory=False)
    assert found.reports[3].regions[1].box() is None
    assert found.pointed()[4] == RegionPrompt(box=found.reports[1].regions[1].box())


@pytest.mark.parametrize("score_only", [False, True])
def test_without_memory_an_object_that_was_never_seen_is_followed_on(record, hidden, score_only):
    hidden(set(range(6)), score_only)
    found = record(memory=False)
    assert list(found.pointed()) == [0, 8]  # seen in frame 6, so that it is pointed at when the third clip begins
    assert [bool(one.texts) for one in found.said] == [False, True, True]


def test_regions_keep_their_numbers_where_only_some_begin_anew(video_model, moving_square):
    """The backbone's order changes when a region leaves its memory and joins behind the others."""
    settings = StreamSettings(read_every=0.0, frame_rate=10, memory=False, max_new_tokens=2)
    stream, frames = RegionStream(video_model, settings), moving_square(6)
    boxes = {1: BOX, 2: RegionPrompt(box=(40, 5, 70, 40)), 3: RegionPrompt(box=(1, 30, 30, 47))}
    for number, box in boxes.items():
        stream.prompt(box, number)
    before = [stream.push(frame) for frame in frames[:3]][-1]
    assert [one.region for one in stream.describe([1, 3])] == [1, 3]
    after = stream.push(frames[3])
    assert sorted(after.pointed) == [1, 3] and sorted(after.regions) == [1, 2, 3]
    alone = RegionStream(video_model, settings)
    alone.prompt(boxes[2])
    expected = [alone.push(frame) for frame in frames[:4]][-1].regions[1].mask_logits
    torch.testing.assert_close(after.regions[2].mask_logits, expected, atol=1e-4, rtol=0)
    for number in (1, 3):
        fresh = RegionStream(video_model, settings)
        fresh.prompt(RegionPrompt(box=before.regions[number].box()))
        expected = fresh.push(frames[3]).regions[1].mask_logits
        torch.testing.assert_close(after.regions[number].mask_logits, expected, atol=1e-4, rtol=0)
        np.testing.assert_allclose(after.pointed[number].box, before.regions[number].box())


def test_only_captions_become_history(record):
    found = record(asked=("recognize", "caption"))
    captions = [one.texts["caption"]["en"].text for one in found.said]
    assert found.asked[1][2] == clip_question("caption", "en", captions[0])
    assert found.asked[1][0] == found.asked[0][0]
