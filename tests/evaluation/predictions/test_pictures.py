"""Answers about regions of pictures, against the predictor that answers one picture at a time."""

import numpy as np
import pytest

from pam_kit.contracts import RegionPrompt
from pam_kit.data.masks import decode_rle, encode_rle
from pam_kit.evaluation.predictions.ledger import BROKEN, SEEN
from pam_kit.evaluation.predictions.pictures import answer_pictures
from pam_kit.evaluation.predictions.settings import PredictionSettings
from pam_kit.evaluation.records import RegionRecord
from pam_kit.inference.session import Session
from pam_kit.tasks import question

SHORT = PredictionSettings(max_new_tokens=6)
BOXES = {"a.png": [(4.0, 4.0, 40.0, 30.0), (0.0, 0.0, 80.0, 48.0)], "c.png": [(10.0, 20.0, 50.0, 90.0)]}


def answered(predictor, root, parts, settings=SHORT) -> dict[str, RegionRecord]:
    return {one.id: one for one in answer_pictures(predictor, root, parts, settings)}


@pytest.fixture
def parts(region):
    return [[region(f"{name}{i}", name, list(box)) for i, box in enumerate(boxes)] for name, boxes in BOXES.items()]


def test_the_same_is_said_and_seen_as_one_by_one(predictor, pictures, parts):
    found = answered(predictor, pictures, parts)
    for name, boxes in BOXES.items():
        prompts = [RegionPrompt(box=box) for box in boxes]
        expected = predictor.predict(pictures / name, prompts, ["recognize"], ["en"], 6)
        for i, one in enumerate(expected):
            record = found[f"{name}{i}"]
            assert record.prediction == one.texts["recognize"]["en"].text
            assert record.meta[SEEN]["iou"] == pytest.approx(one.iou, abs=1e-3)
            assert np.mean(decode_rle(record.meta[SEEN]["mask"]) != one.mask) < 0.01


def test_each_picture_is_encoded_once_and_equal_questions_are_asked_once(
    predictor, pictures, parts, region, monkeypatch
):
    encode, ask, encoded, asked = predictor.model.backbone.encode, Session.ask, [], []

    def counted(self, regions, *rest, questions, **options):
        asked.append((len(regions), *questions.values()))
        return ask(self, regions, *rest, questions=questions, **options)

    monkeypatch.setattr(Session, "ask", counted)
    monkeypatch.setattr(
        predictor.model.backbone, "encode", lambda images: encoded.append(len(images)) or encode(images)
    )
    again = [region(f"{task} again", "a.png", list(BOXES["a.png"][0]), task) for task in ("recognize", "describe")]
    found = answered(predictor, pictures, [[*parts[0], *again], parts[1]])
    assert encoded == [2] and len(found) == 5
    assert asked == [(3, {"en": question("recognize", "en")}), (1, {"en": question("describe", "en")})]
    assert found["recognize again"].prediction == found["a.png0"].prediction


def test_masks_and_points_are_prompts_too(predictor, pictures):
    mask = np.zeros((48, 80), dtype=bool)
    mask[10:30, 20:60] = True
    prompts = {"mask": {"mask": encode_rle(mask)}, "point": {"points": [[30.0, 20.0]], "labels": [1]}}
    part = [RegionRecord(name, "any", "What?", ("a",), image="a.png", prompt=one) for name, one in prompts.items()]
    found = answered(predictor, pictures, [part])
    expected = predictor.predict(
        pictures / "a.png", [RegionPrompt(mask=mask), RegionPrompt(points=((30.0, 20.0),), labels=(1,))]
    )
    for record, one in zip(found.values(), expected, strict=True):
        assert np.mean(decode_rle(record.meta[SEEN]["mask"]) != one.mask) < 0.01


def test_what_cannot_be_read_is_told_and_costs_no_other_region(predictor, pictures, parts, region):
    outside = region("outside", "a.png", [0.0, 0.0, 81.0, 10.0])
    parts = [
        [*parts[0], outside],
        [region("bad", "bad.png", [0.0, 0.0, 1.0, 1.0])],
        [region("gone", "d.png", [0, 0, 1, 1])],
    ]
    found = answered(predictor, pictures, parts)
    reasons = {id: one.meta.get(BROKEN, "") for id, one in found.items()}
    assert "does not fit a picture of 80x48" in reasons["outside"] and "is not a picture" in reasons["bad"]
    assert "does not exist" in reasons["gone"]
    assert [found[id].prediction for id in ("outside", "bad", "gone")] == [None] * 3
    assert not reasons["a.png0"] and found["a.png0"].prediction is not None
    assert answered(predictor, pictures, parts[1:]).keys() == {"bad", "gone"}
