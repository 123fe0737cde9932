"""Labels out of a list: the arithmetic of ranks, priors and synonyms, and a real small model's own likelihoods."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pam_kit.contracts import AnswerScores, Questions, RegionPrompt
from pam_kit.data.label_lists import Label
from pam_kit.errors import PamKitError, PromptError
from pam_kit.inference.closed_set import Calibration, ClosedSet, recognise
from pam_kit.inference.everything import Everything
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.region_reading import read_regions

LABELS = ["cup", "cupboard", "ball", "small_ball"]
KNOWN = {"cup": (-1.0, 1), "cupboard": (-2.0, 4), "ball": (-1.5, 2), "small ball": (-3.0, 2), "sphere": (-1.2, 2)}
BLIND = {"cup": -0.5, "cupboard": -4.0, "ball": -1.0, "small ball": -5.0, "sphere": -6.0}


def known_decoder():
    """A decoder of known log-probabilities: for a region, shifted by its number, and for none."""
    asked = []

    def score_answers(prefix, questions, texts):
        asked.append((questions, list(texts)))
        rows = [
            [BLIND[text] if region < 0 else KNOWN[text][0] - 0.1 * region * KNOWN[text][1] for text in texts]
            for region in questions.region_index.tolist()
        ]
        return AnswerScores(torch.tensor(rows), torch.tensor([KNOWN[text][1] for text in texts]))

    return SimpleNamespace(score_answers=score_answers, asked=asked)


def ranked(chosen: ClosedSet, regions: int = 1, top_k: int = 5):
    return chosen.rank(known_decoder(), torch.zeros(regions, 3, 8), top_k)


def shares(*scores: float) -> list[float]:
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


def test_labels_are_ranked_by_the_probability_of_their_words():
    first, second = ranked(ClosedSet(LABELS), regions=2)
    assert [label.name for label in first] == ["cup", "ball", "cupboard", "small_ball"]
    assert [label.log_probability for label in second] == pytest.approx([-1.1, -1.7, -2.4, -3.2])
    assert [label.confidence for label in first] == pytest.approx(shares(-1, -1.5, -2, -3))
    assert [len(own) for own in ranked(ClosedSet(LABELS), regions=2, top_k=2)] == [2, 2]


def test_the_question_is_the_tasks_or_ones_own():
    for language, question in (
        ("en", "Classify this subject and provide its label."),
        ("zh", "对该目标对象进行分类并给出标签"),
    ):
        decoder = known_decoder()
        ClosedSet(LABELS, language).rank(decoder, torch.zeros(1, 3, 8))
        assert decoder.asked[0][0].questions == [question] and decoder.asked[0][0].languages == [language]
    decoder = known_decoder()
    ClosedSet(LABELS, question="What?").rank(decoder, torch.zeros(1, 3, 8))
    assert decoder.asked == [(decoder.asked[0][0], ["cup", "cupboard", "ball", "small ball"])]
    assert decoder.asked[0][0].questions == ["What?"]


def test_the_mean_over_tokens():
    (own,) = ranked(ClosedSet(LABELS, per_token=True))
    assert [label.name for label in own] == ["cupboard", "ball", "cup", "small_ball"]
    assert own[0].log_probability == pytest.approx(-0.5)


def test_a_prior_without_region_is_divided_out():
    (own,) = ranked(ClosedSet(LABELS, prior="no_region"))
    # Log-probability of the words with the region, less that without: -0.5, 2, -0.5 and 2.
    assert {label.name: label.confidence for label in own} == pytest.approx(
        dict(zip(LABELS, shares(-0.5, 2, -0.5, 2), strict=True))
    )


def test_words_of_a_label_add_up_and_words_of_two_labels_are_scored_once():
    labels = [Label("cup", ("cup",)), Label("ball", ("ball", "sphere")), Label("globe", ("sphere",))]
    chosen = ClosedSet(labels)
    assert chosen.texts == ["cup", "ball", "sphere"]
    (own,) = ranked(chosen)
    assert own[0].name == "ball" and own[0].log_probability == pytest.approx(math.log(math.exp(-1.5) + math.exp(-1.2)))
    (best,) = ranked(ClosedSet(labels, per_token=True))
    assert {label.name: label.log_probability for label in best}["ball"] == pytest.approx(-0.6)


def test_a_calibration_changes_confidences(tmp_path):
    plain = ClosedSet(LABELS, prior="regions")
    prior = (-0.1, -3.0, -2.5, -3.5)
    Calibration(tuple(LABELS), 2.5, prior, plain.settings).save(tmp_path / "calibration.json")
    loaded = Calibration.load(tmp_path / "calibration.json")
    (own,) = ranked(ClosedSet(LABELS, prior="regions", calibration=loaded))
    expected = shares(*((KNOWN[name.replace("_", " ")][0] - p) / 2.5 for name, p in zip(LABELS, prior, strict=True)))
    assert {label.name: label.confidence for label in own} == pytest.approx(dict(zip(LABELS, expected, strict=True)))
    with pytest.raises(PamKitError, match="known from held-out regions only"):
        ranked(plain)


def test_calibrations_of_something_else_are_refused(tmp_path):
    fitted = Calibration(tuple(LABELS), 2.0, None, ClosedSet(LABELS).settings)
    with pytest.raises(PamKitError, match="of other labels"):
        ClosedSet([*LABELS, "bowl"], calibration=fitted)
    with pytest.raises(PamKitError, match="was fitted with"):
        ClosedSet(LABELS, per_token=True, calibration=fitted)
    with pytest.raises(PamKitError, match="holds no prior"):
        ClosedSet(
            LABELS,
            prior="regions",
            calibration=Calibration(tuple(LABELS), 2.0, None, ClosedSet(LABELS, prior="regions").settings),
        )
    # Of before calibrations named their model, and of a temperature that is none.
    unnamed = '{"labels": ["a", "b"], "temperature": 1, "prior": null, "settings": {}}'
    for text in ("[]", "{}", unnamed, unnamed.replace("1", "0").replace("}}", '}, "model": null}'), "x"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(PamKitError, match="bad"):
            Calibration.load(tmp_path / "bad.json")
    with pytest.raises(PamKitError, match="cannot be read"):
        Calibration.load(tmp_path / "missing.json")


def test_a_calibration_of_other_words_for_the_same_names_is_refused():
    plain, synonyms = ([Label("cup", ("cup", *more)), Label("ball", ("ball",))] for more in ((), ("mug",)))
    for fitted, used in ((plain, synonyms), (synonyms, plain)):
        calibration = Calibration(("cup", "ball"), 2.0, None, ClosedSet(fitted).settings)
        assert ClosedSet(fitted, calibration=calibration).calibration is calibration
        with pytest.raises(PamKitError, match="other words for the same labels.*fit one for these"):
            ClosedSet(used, calibration=calibration)
    # Which words belong to which label matters, not only what they are in all.
    moved = [Label("cup", ("cup",)), Label("ball", ("mug", "ball"))]
    with pytest.raises(PamKitError, match="other words"):
        ClosedSet(
            moved, calibration=Calibration(("cup", "ball"), settings=ClosedSet([*synonyms[:1], *plain[1:]]).settings)
        )


def saved(folder, weights: bytes):
    """A run folder as far as it tells models apart."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text("model: {}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_calibration_of_another_model_is_refused(tiny_model, tmp_path):
    model = tiny_model()

    def loaded(folder) -> RegionPredictor:
        predictor = RegionPredictor(model, "cpu")
        predictor.checkpoint = folder
        return predictor

    def put_to(predictor, fitted_for: str | None):
        calibration = Calibration(tuple(LABELS), 2.0, None, ClosedSet(LABELS).settings, fitted_for)
        chosen = ClosedSet(LABELS, calibration=calibration)
        return recognise(predictor, image, [RegionPrompt(box=(2, 3, 40, 30))], chosen)

    image = np.zeros((48, 80, 3), dtype=np.uint8)
    own = loaded(saved(tmp_path / "run", b"one"))
    assert len(own.sha256) == 64 and put_to(own, own.sha256)
    # Replaced in place: the folder is called as before.
    replaced = loaded(saved(tmp_path / "run", b"two"))
    with pytest.raises(PamKitError, match=f"another model: for that with the SHA-256 {own.sha256}, here it is"):
        put_to(replaced, own.sha256)
    for predictor, fitted_for, told in (
        (RegionPredictor(model, "cpu"), own.sha256, "this model was not loaded from a run"),
        (own, None, "the model that the calibration was fitted for was not loaded from a run"),
    ):
        with pytest.raises(PamKitError, match=told):
            put_to(predictor, fitted_for)
    fitted = Calibration(tuple(LABELS), 2.0, None, ClosedSet(LABELS).settings, own.sha256)
    with pytest.raises(PamKitError, match="another model"):
        Everything(replaced, labels=ClosedSet(LABELS, calibration=fitted))


def test_lists_and_numbers_that_are_none():
    for labels, told in (
        (["cup"], "nothing to choose"),
        (["cup", "cup"], "stands 2 times"),
        (["cup", " "], "no words"),
    ):
        with pytest.raises(PamKitError, match=told):
            ClosedSet(labels)
    with pytest.raises(PamKitError, match="prior 'mean' is unknown"):
        ClosedSet(LABELS, prior="mean")
    with pytest.raises(PamKitError, match="at least one label"):
        ranked(ClosedSet(LABELS), top_k=0)


def test_a_model_ranks_by_its_own_likelihoods(tiny_model):
    predictor = RegionPredictor(tiny_model(), "cpu")
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    prompts = [RegionPrompt(box=(2, 3, 40, 30)), RegionPrompt(points=((60.0, 20.0),), labels=(1,))]
    found = recognise(predictor, image, prompts, LABELS, top_k=3)
    chosen = ClosedSet(LABELS)
    _, prefix = read_regions(predictor, [image], [prompts])
    for region, own in enumerate(found):
        logs = []
        for text in chosen.texts:
            asked = Questions(torch.tensor([region]), [chosen.question], [text], ["recognize"], ["en"])
            sums, _ = predictor.model.decoder.log_likelihoods(prefix, asked)
            logs.append(float(sums))
        best = np.argsort(logs)[::-1][:3]
        assert [label.name for label in own] == [LABELS[i] for i in best]
        assert [label.log_probability for label in own] == pytest.approx([logs[i] for i in best], abs=1e-4)
    assert recognise(predictor, image, [], LABELS) == []
    with pytest.raises(PromptError, match="region 2 of 2"):
        recognise(predictor, image, [prompts[0], RegionPrompt(box=(0, 0, 100, 10))], LABELS)


def test_a_picture_is_encoded_once_and_a_region_read_once(tiny_model, monkeypatch):
    predictor = RegionPredictor(tiny_model(), "cpu")
    seen = []
    encode = predictor.model.backbone.encode
    monkeypatch.setattr(predictor.model.backbone, "encode", lambda images: seen.append(len(images)) or encode(images))
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    recognise(predictor, image, [RegionPrompt(box=(2, 3, 40, 30)), RegionPrompt(box=(9, 9, 20, 20))], LABELS)
    assert seen == [1]
