"""The mask that is shown is the one that the text describes: by default, of hypotheses, and of a chosen candidate."""

import json

import numpy as np
import pytest
import torch

from pam_kit.contracts import Questions, RegionPrompt
from pam_kit.data.prepare import Asked, Geometry, collate, prepare
from pam_kit.errors import PamKitError, PromptError
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.tasks import QUESTIONS

STEPS = 5


def test_hypotheses_show_what_their_texts_describe(model, picture, prompts):
    """Each text is what the model says of a region whose described token is that of the hypothesis."""
    session = RegionPredictor(model, "cpu").open(picture())
    point = [RegionPrompt(points=((30.0, 20.0),), labels=(1,)), prompts()[0]]
    found = session.ask(point, ("caption",), ("en",), STEPS, hypotheses=True)
    assert session.work.views == 6 and session.work.regions == 2
    geometry = Geometry.of(model.backbone)
    for one in found:
        assert [hypothesis.name for hypothesis in one.hypotheses] == ["part", "whole", "group"]
        areas = [hypothesis.mask.sum() for hypothesis in one.hypotheses]
        assert areas == sorted(areas)
        (chosen,) = [hypothesis for hypothesis in one.hypotheses if hypothesis.chosen]
        assert chosen.iou == max(hypothesis.iou for hypothesis in one.hypotheses) == one.iou
        assert np.array_equal(chosen.mask, one.mask) and chosen.texts == one.texts
        assert sorted(one.texts) == ["caption", "recognize"]
        asked = [Asked(0, "recognize", "en", QUESTIONS["recognize"]["en"])]
        batch = collate([prepare(picture(), [one.prompt], asked, geometry)], geometry)
        with torch.inference_mode():
            regions = model.segment(batch.images, batch.image_index, batch.prompts)
            logits = torch.nn.functional.interpolate(regions.candidate_logits, size=(48, 80), mode="bilinear")[0]
            for hypothesis in one.hypotheses:
                (k,) = [
                    k
                    for k in (1, 2, 3)
                    if float(regions.candidate_iou[0, k]) == pytest.approx(hypothesis.iou, abs=1e-5)
                ]
                sure = logits[k].abs() > 1e-4
                assert torch.equal(torch.from_numpy(hypothesis.mask)[sure], (logits[k] > 0)[sure])
                first = 1 + int(model.backbone.mask_decoder.pred_obj_scores)
                regions.mask_tokens = torch.stack([regions.all_tokens[:, first + k], regions.all_tokens[:, first]], 1)
                regions.mask_logits = regions.candidate_logits[:, k : k + 1]
                prefix = model.prefix(model.perceive(regions))
                (expected,) = model.decoder.generate(prefix, batch.questions, STEPS)
                assert hypothesis.texts["recognize"]["en"].text == expected.text
    before = session.work.prefix_positions
    assert session.ask(point[:1], ("caption",), ("en",), STEPS, hypotheses=True)[0].texts == found[0].texts
    assert session.work.prefix_positions == before, "three views of two regions are kept"
    told = found[0].to_json()["hypotheses"]
    assert [one["name"] for one in told] == ["part", "whole", "group"] and json.dumps(told)


def test_hypotheses_of_a_backbone_without_any_are_refused(talking_model, monkeypatch, picture, prompts):
    model = talking_model()
    segment = model.backbone.segment

    def single(*arguments):
        regions = segment(*arguments)
        regions.candidate_tokens = None
        return regions

    monkeypatch.setattr(model.backbone, "segment", single)
    with pytest.raises(PamKitError, match="no hypotheses"):
        RegionPredictor(model, "cpu").open(picture()).ask(prompts(), hypotheses=True)


@torch.inference_mode()
def test_a_region_is_told_of_by_the_mask_that_is_chosen(model, picture):
    """Each of the decoder's masks by itself; beside them the one that the model would show."""
    session = RegionPredictor(model, "cpu").open(picture())
    point = RegionPrompt(points=((20.0, 12.0),), labels=(1,))
    ((numbers, features),) = session.segment([point])
    assert numbers == [0] and features.candidate_logits.shape[1] == 4
    asked = session.ask([point] * 5, ("caption",), ("en",), STEPS, candidates=[0, 1, 2, 3, None])
    expected = [features.hypothesis(candidate) for candidate in range(4)] + [features]
    for one, own in zip(asked, expected, strict=True):
        full = torch.nn.functional.interpolate(own.mask_logits, size=(48, 80), mode="bilinear")[0, 0]
        assert torch.equal(torch.from_numpy(one.mask), full > 0) and one.iou == pytest.approx(float(own.iou))
        by_hand = model.prefix(model.perceive(own))
        reading = model.decoder.start_reading(1)
        reading.read(by_hand)
        question = Questions(torch.zeros(1).long(), [QUESTIONS["caption"]["en"]], [""], ["caption"], ["en"])
        assert one.texts["caption"]["en"].text == reading.answer(question, STEPS)[0].text
    masks = {one.mask.tobytes() for one in asked[:4]}
    # Asked once more, the mask of a region and its text are those of the same candidate.
    again = session.ask([point] * 2, ("caption",), ("en",), STEPS, candidates=[3, 1])
    said = [one.texts["caption"]["en"].text for one in (*again, asked[3], asked[1])]
    assert len(masks) > 1 and said[:2] == said[2:]
    assert np.array_equal(again[0].mask, asked[3].mask)


def test_masks_that_cannot_be_chosen(tiny_model, picture):
    session = RegionPredictor(tiny_model(), "cpu").open(picture())
    point = [RegionPrompt(points=((20.0, 12.0),), labels=(1,))]
    with pytest.raises(PamKitError, match="makes 4 masks to choose from at a prompt; there is no number 4"):
        session.ask(point, candidates=[4])
    with pytest.raises(PamKitError, match="ask for one or the other"):
        session.ask(point, hypotheses=True, candidates=[1])
    outside = [*point, RegionPrompt(points=((99.0, 12.0),), labels=(1,))]
    for looking in (lambda: list(session.segment(outside)), lambda: session.score(outside, "What?", ["a"])):
        with pytest.raises(PromptError, match="region 2 of 2: point"):
            looking()


@pytest.mark.parametrize("steps_of", ["ask", "segment"])
@torch.inference_mode()
def test_the_mask_is_the_described_one_where_the_backbone_shows_the_single_one(
    steps_of, video_model, monkeypatch, picture
):
    """As in an imported PAM: at an ambiguous click the single mask is unstable, and the text is about the best one."""
    monkeypatch.setattr(video_model.backbone, "shown", "single")
    monkeypatch.setattr(video_model.backbone, "selection", "stability")
    geometry, click = Geometry.of(video_model.backbone), RegionPrompt(points=((30.0, 20.0),), labels=(1,))
    batch = collate([prepare(picture(), [click], [], geometry)], geometry)
    regions = video_model.segment(batch.images, batch.image_index, batch.prompts)
    (described,) = regions.described.tolist()
    assert described > 0 and torch.equal(regions.mask_tokens[0, 0], regions.candidate_tokens[0, described])
    single = regions.candidate_logits[:, :1] if regions.object_score > 0 else regions.candidate_logits[:, :1] * 0 - 1024
    assert torch.equal(regions.mask_logits, single), "what is remembered in a clip is the single one as before"
    logits = torch.nn.functional.interpolate(regions.candidate_logits, size=(48, 80), mode="bilinear")[0, described]
    session = RegionPredictor(video_model, "cpu").open(picture())
    if steps_of == "segment":
        ((_, features),) = session.segment([click])
        torch.testing.assert_close(features.mask_logits[0, 0], regions.candidate_logits[0, described])
        assert float(features.iou) == pytest.approx(float(regions.candidate_iou[0, described]), abs=1e-5)
        return
    found, chosen = session.ask([click] * 2, ("caption",), ("en",), STEPS, candidates=[None, described])
    sure = logits.abs() > 1e-4
    assert torch.equal(torch.from_numpy(found.mask)[sure], (logits > 0)[sure])
    assert np.array_equal(found.mask, chosen.mask) and found.iou == chosen.iou != float(regions.iou)
    assert found.texts["caption"]["en"].text == chosen.texts["caption"]["en"].text
    (alone,) = video_model.answer(batch.images, batch.image_index, batch.prompts, _caption(), STEPS)[1]
    assert found.texts["caption"]["en"].text == alone.text


def _caption() -> Questions:
    return Questions(torch.zeros(1).long(), [QUESTIONS["caption"]["en"]], [""], ["caption"], ["en"])
