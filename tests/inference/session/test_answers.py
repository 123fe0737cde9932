"""A session against the plain path: every region and question by itself, the picture encoded for each of them."""

import json

import numpy as np
import pytest
import torch

from pam_kit.contracts import RegionPrompt
from pam_kit.errors import PamKitError, PromptError
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.session import Session
from pam_kit.inference.session_events import MaskReady, RegionReady, TextGrows, TextReady
from pam_kit.inference.session_settings import SessionSettings

TASKS, LANGUAGES, STEPS = ("recognize", "caption"), ("en", "zh"), 5
OWN = {"colour": {"en": "What colour is it?"}}


def test_answers_and_masks_are_those_of_the_plain_path(model, picture, prompts, assert_plain):
    session = RegionPredictor(model, "cpu").open(picture())
    found = session.ask(prompts(), TASKS, LANGUAGES, STEPS, questions=OWN)
    assert_plain(model, picture(), found)
    assert all(list(one.texts) == ["recognize", "caption", "colour"] for one in found)
    said = [answer.text for one in found for by_language in one.texts.values() for answer in by_language.values()]
    assert len(set(said)) > 10, "what is said depends on the region and on the question"


def test_regions_of_several_pictures_are_told_apart(talking_model, picture, assert_plain):
    model, images = (
        talking_model(),
        [picture(seed, size) for seed, size in ((0, (48, 80)), (1, (64, 64)), (2, (30, 90)))],
    )
    boxes = [[RegionPrompt(box=(1.0, 2.0, 40.0, 29.0)), RegionPrompt(points=((9.0, 9.0),), labels=(1,))], [], []]
    boxes[2] = [RegionPrompt(box=(50.0, 1.0, 90.0, 30.0))]
    for settings in (SessionSettings(), SessionSettings(picture_batch=1, region_batch=1, answer_batch=1)):
        predictor = RegionPredictor(model, "cpu", settings)
        found = predictor.predict_batch(images, boxes, TASKS, ("zh",), STEPS)
        assert [len(own) for own in found] == [2, 0, 1]
        for image, own in zip(images, found, strict=True):
            assert_plain(model, image, own)
    session = RegionPredictor(model, "cpu").open(*images)
    assert [one.mask.shape for one in session.ask(boxes[2], (), pictures=[2])] == [(30, 90)]
    with pytest.raises(PamKitError, match="of 3 pictures, counted from 0; there is no 3"):
        session.ask(boxes[2], pictures=[3])


@pytest.mark.parametrize("steps", ["growing", "fixed"])
def test_steps_of_every_kind_answer_alike(talking_model, steps, picture, prompts, assert_plain):
    model = talking_model()
    session = RegionPredictor(model, "cpu", SessionSettings(steps=steps)).open(picture())
    for _ in range(2):
        assert_plain(model, picture(), session.ask(prompts(), TASKS, ("en",), STEPS))


def test_a_decoder_of_two_bytes_answers_and_the_masks_stay_as_they_are(talking_model, picture, prompts):
    expected = RegionPredictor(talking_model(), "cpu").predict(picture(), prompts(), max_new_tokens=1)
    low = RegionPredictor(talking_model(), "cpu", precision="bfloat16")
    assert {p.dtype for p in low.model.decoder.parameters()} == {torch.bfloat16}
    for one, other in zip(low.predict(picture(), prompts(), max_new_tokens=1), expected, strict=True):
        assert np.array_equal(one.mask, other.mask)
        own, others = (found.texts["recognize"]["en"].score for found in (one, other))
        assert own == pytest.approx(others, abs=0.2)


def test_masks_come_first_then_texts_grow_and_each_region_ends_once(talking_model, picture, prompts):
    session = RegionPredictor(talking_model(), "cpu", SessionSettings(region_batch=2, answer_batch=3)).open(picture())
    events = list(session.stream(prompts(), TASKS, LANGUAGES, STEPS))
    kinds = [type(event) for event in events]
    assert kinds[:4] == [MaskReady] * 4 and kinds.count(MaskReady) == 4
    assert kinds.count(RegionReady) == 4 and kinds.count(TextReady) == 16
    grown: dict[tuple, str] = {}
    for place, event in enumerate(events):
        if isinstance(event, MaskReady):
            assert event.prediction.texts == {}
        elif isinstance(event, TextGrows):
            key = (event.region, event.task, event.language)
            grown[key] = grown.get(key, "") + event.piece
        elif isinstance(event, TextReady):
            key = (event.region, event.task, event.language)
            assert grown.get(key, "").strip() == event.answer.text
        else:
            later = [other for other in events[place + 1 :] if other.region == event.region]
            assert not later and sum(map(len, event.prediction.texts.values())) == 4
    assert kinds.index(TextGrows) < kinds.index(TextReady), "pieces are told before an answer is whole"


def test_a_stream_that_is_left_early_leaves_the_session_as_it_was(talking_model, picture, prompts, assert_plain):
    model = talking_model()
    session = RegionPredictor(model, "cpu").open(picture())
    stream = session.stream(prompts(), TASKS, ("en",), STEPS)
    next(event for event in stream if isinstance(event, TextGrows))
    assert_plain(model, picture(), session.ask(prompts(), TASKS, ("en",), STEPS))
    stream.close()
    assert_plain(model, picture(), session.ask(prompts(), TASKS, ("en",), STEPS))


def test_a_wrong_region_is_told_alone(talking_model, picture, prompts, assert_plain):
    model, wrong = talking_model(), RegionPrompt(box=(10.0, 10.0, 900.0, 40.0))
    predictor = RegionPredictor(model, "cpu")
    session = predictor.open(picture())
    found = session.ask([prompts()[0], wrong, prompts()[1]], TASKS, ("en",), STEPS)
    assert_plain(model, picture(), [found[0], found[2]])
    assert "does not fit a picture of 80x48" in found[1].error and not found[1].mask.any() and found[1].texts == {}
    told = json.loads(json.dumps(found[1].to_json()))
    assert told["error"] == found[1].error and "error" not in found[0].to_json()
    first = next(session.stream([prompts()[0], wrong], TASKS, ("en",), STEPS))
    assert isinstance(first, RegionReady) and first.region == 1, "it is told before anything is computed"
    with pytest.raises(PromptError, match="region 2 of 2: box"):
        predictor.predict(picture(), [prompts()[0], wrong])


@pytest.mark.parametrize("overrides", [("decoder.architecture=bloom",), ("decoder.template=native",)])
def test_a_decoder_that_cannot_share_what_it_reads_answers_all_the_same(
    talking_model, overrides, picture, prompts, assert_plain
):
    model = talking_model(*overrides)
    if "native" in overrides[0]:
        model.decoder.tokenizer.chat_template = (
            "{{ messages[1].content.split('\n')[1][:4] }}: {{ messages[1].content }}"
        )
    session = RegionPredictor(model, "cpu").open(picture())
    assert_plain(model, picture(), session.ask(prompts(), TASKS, ("en",), STEPS))
    assert len(session.notes) == 1 and "together with its region" in session.notes[0]


def test_a_decoder_is_lowered_ahead_of_the_move(tiny_model, monkeypatch):
    """So that a device for which it is too large need not hold it as it was; meta stands for such a device."""
    model = tiny_model()
    lower, devices = model.decoder.lower_precision, []

    def lowered(*given):
        devices.append({part.device.type for part in model.parameters()})
        lower(*given)
        devices.append({part.device.type for part in model.decoder.parameters()})

    monkeypatch.setattr(model.decoder, "lower_precision", lowered)
    RegionPredictor(model, "meta", precision="bfloat16")
    assert devices == [{"cpu"}, {"meta"}] and {part.device.type for part in model.parameters()} == {"meta"}


def test_wrong_questions_and_settings_name_what_is_wrong(talking_model, picture, prompts):
    session = Session(talking_model(), [picture()])
    for wrong, words in ((("paint",), "unknown task 'paint'.*questions="), (("caption", "caption"), "asked twice")):
        with pytest.raises(PamKitError, match=words):
            session.ask(prompts(), wrong)
    with pytest.raises(PamKitError, match="unknown language 'fr'"):
        session.ask(prompts(), languages=("fr",))
    with pytest.raises(PamKitError, match="region_batch is 0; it is at least 1"):
        SessionSettings(region_batch=0)
    with pytest.raises(PamKitError, match="steps is 'quick'; it is one of growing, fixed, compiled"):
        SessionSettings(steps="quick")
    assert session.ask([]) == []
