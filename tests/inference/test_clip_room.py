"""Clips that are too long for the decoder are refused before the first frame, with the numbers and the remedy."""

import pytest
import torch

from pam_kit.contracts import Questions, RegionPrompt
from pam_kit.errors import PamKitError
from pam_kit.inference.stream_records import StreamSettings
from pam_kit.inference.streamer import RegionStream
from pam_kit.inference.tracker import VideoPredictor
from pam_kit.inference.video_result import FramePrompt
from pam_kit.tasks import LANGUAGES, clip_question

BOX = RegionPrompt(box=(4, 10, 24, 30))
FRAMES, ANSWER = 5, 4


def needed(model, recalled: int) -> int:
    asked = [model.decoder.question_length(clip_question("caption", language)) for language in LANGUAGES]
    return model.prefix_length(FRAMES) + max(asked) + recalled + ANSWER


def settings(**changes) -> StreamSettings:
    values = {"languages": LANGUAGES, "read_every": 0.0, "clip_frames": FRAMES, "max_new_tokens": ANSWER}
    return StreamSettings(**values | changes)


def test_a_question_is_as_long_as_what_is_read_beside_the_region(video_model):
    decoder = video_model.decoder
    for language in LANGUAGES:
        question = clip_question("caption", language, "a red square")
        about = Questions(torch.tensor([0]), [question], [""], ["caption"], [language])
        reading = decoder.start_reading(1)
        reading.read(torch.zeros(1, 3, decoder.embed_dim))
        reading.answer(about, 1)
        assert decoder.question_length(question) == reading.positions_computed - 3


@pytest.mark.parametrize("history", [True, False])
def test_a_stream_whose_clips_do_not_fit_is_refused_at_once(video_model, moving_square, monkeypatch, history):
    room = needed(video_model, ANSWER if history else 0)
    monkeypatch.setattr(video_model.decoder, "max_positions", room - 1)
    with pytest.raises(PamKitError) as refused:
        RegionStream(video_model, settings(history=history))
    clip = video_model.prefix_length(FRAMES)
    assert f"clips of {FRAMES} frames (--frames, clip_frames) take {clip} positions" in str(refused.value)
    assert f"room for {room - 1} in all: read at most {FRAMES - 1} frames" in str(refused.value)
    monkeypatch.setattr(video_model.decoder, "max_positions", room)
    stream = RegionStream(video_model, settings(history=history))
    stream.prompt(BOX)
    for frame in moving_square(FRAMES):
        stream.push(frame)
    assert stream.describe()[0].frames_read == FRAMES


def test_words_that_leave_no_room_for_a_frame(video_model):
    with pytest.raises(PamKitError, match="2048 in all: ask for shorter answers .* or use a decoder that reads longer"):
        RegionStream(video_model, settings(max_new_tokens=2048))


@pytest.mark.parametrize(("sampler", "frames"), [("uniform", FRAMES), ("uniform", 64), ("all", 1)])
def test_a_video_that_does_not_fit_is_refused_before_it_is_followed(
    video_model, moving_square, monkeypatch, sampler, frames
):
    room, pictures = needed(video_model, 0), moving_square(FRAMES)
    asked = {"languages": LANGUAGES, "frames": frames, "sampler": sampler, "max_new_tokens": ANSWER}
    predictor, prompts = VideoPredictor(video_model), [FramePrompt(1, 0, BOX)]
    monkeypatch.setattr(video_model.decoder, "max_positions", room)
    assert len(predictor.predict(pictures, prompts, **asked).regions[0].read_frames) == FRAMES
    monkeypatch.setattr(video_model.decoder, "max_positions", room - 1)
    monkeypatch.setattr(video_model.backbone, "encode", lambda images: pytest.fail("encoded"))
    with pytest.raises(PamKitError, match=f"clips of {FRAMES} frames .* read at most {FRAMES - 1} frames"):
        predictor.predict(pictures, prompts, **asked)
