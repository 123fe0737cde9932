"""Scores: right answers score 1, wrong ones what can be counted by hand."""

import math
import statistics

import numpy as np
import pytest

from pam_kit.contracts import GeneratedText, Region, RegionPrompt
from pam_kit.data.micro.dataset import MicroDataset
from pam_kit.evaluation.evaluate import markdown
from pam_kit.evaluation.scores import Score, SplitScores, normal
from pam_kit.geometry import mask_iou
from pam_kit.inference.result import RegionPrediction

PROMPT = RegionPrompt(box=(0, 0, 4, 4))


def mask(columns: int) -> np.ndarray:
    found = np.zeros((4, 4), dtype=bool)
    found[:, :columns] = True
    return found


def prediction(texts: dict[str, dict[str, str]], found: np.ndarray | None = None) -> RegionPrediction:
    answers = {
        task: {language: GeneratedText(text, 0.5) for language, text in by_language.items()}
        for task, by_language in texts.items()
    }
    return RegionPrediction(PROMPT, mask(4) if found is None else found, 0.5, 0.5, answers)


def labelled(*labels: str) -> list[Region]:
    return [Region(str(i), texts={"recognize": {"en": label}}) for i, label in enumerate(labels)]


def saying(*labels: str) -> list[RegionPrediction]:
    return [prediction({"recognize": {"en": label}}) for label in labels]


def micro_scores(order) -> dict[str, dict[str, float]]:
    """Scores of the micro dataset's own texts and masks, each picture's in the order that ``order`` makes of them."""
    dataset = MicroDataset(12, image_size=64)
    scores = SplitScores(dataset.read_attribute)
    for index in range(len(dataset)):
        regions = dataset[index].regions
        scores.add_picture(regions, [prediction(region.texts, region.mask) for region in order(regions)])
    return scores.table()


def test_perfect_predictions_score_one():
    table = micro_scores(list)
    floors = {"majority label", "majority colour", "moved prompt: stays", "twins: its twin en", "twins: its twin zh"}
    floors |= {"one answer a picture: label", "one answer a picture: label and colour"}
    assert {name: row["mean"] for name, row in table.items() if name not in floors} == dict.fromkeys(
        table.keys() - floors, 1.0
    )
    assert table["moved prompt: stays"]["mean"] == table["twins: its twin en"]["mean"] == 0
    languages = {
        f"{name} {language}" for name in ("label", "caption exact", "explain exact") for language in ("en", "zh")
    }
    attributes = {
        f"{task} {name} {language}"
        for task, names in {
            "caption": ("label", "colour", "texture", "size"),
            "describe": ("position", "relation"),
        }.items()
        for name in names
        for language in ("en", "zh")
    }
    both = {f"caption label and colour {language}" for language in ("en", "zh")}
    twins = {f"twins: itself {language}" for language in ("en", "zh")}
    assert table.keys() == floors | languages | attributes | both | twins | {"mask IoU", "moved prompt: follows"}


def test_the_right_answers_at_the_wrong_regions_score_less():
    right, wrong = micro_scores(list), micro_scores(lambda regions: [*regions[1:], regions[0]])
    assert right.keys() == wrong.keys()
    for name in ("mask IoU", "label en", "label zh", "caption exact zh", "caption colour en", "describe position zh"):
        assert wrong[name]["mean"] < 0.5 and wrong[name]["n"] == right[name]["n"]
    for name in ("majority label", "majority colour"):
        assert wrong[name]["mean"] == right[name]["mean"]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [(mask(2), mask(4), 0.5), (mask(3), mask(1), 1 / 3), (mask(0), mask(0), 1), (mask(0), mask(1), 0)],
)
def test_iou_by_hand(one, other, expected):
    assert mask_iou(one, other) == mask_iou(other, one) == pytest.approx(expected)


def test_what_does_not_matter_in_a_text():
    assert normal(" Red Cup. ") == normal("red cup") == "red cup" and normal("杯子。") == "杯子"
    assert normal("redcup") != normal("red cup")


@pytest.mark.parametrize("values", [[1.0, 0.0, 1.0, 1.0], [0.2, 0.9, 0.5], [0.7, 0.7], [1.0] * 5])
def test_mean_and_standard_error(values):
    score = Score()
    for value in values:
        score.add(value)
    assert score.count == len(values) and score.mean == pytest.approx(statistics.mean(values))
    assert score.standard_error == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), abs=1e-8)


def test_one_value_has_no_standard_error():
    score = Score()
    assert math.isnan(score.mean) and math.isnan(score.standard_error)
    score.add(1)
    assert score.mean == 1 and math.isnan(score.standard_error)


def test_a_moved_prompt_by_hand():
    """Of cup, cup, key, where cup, key, key is said: from cup to key the label follows twice; from key to cup it
    follows once and stays once."""
    scores = SplitScores()
    scores.add_picture(labelled("cup", "cup", "key"), saying("Cup.", "key", "key"))
    table = scores.table()
    assert table["moved prompt: follows"]["mean"] == 3 / 4 and table["moved prompt: follows"]["n"] == 4
    assert table["moved prompt: stays"]["mean"] == 1 / 4 and table["moved prompt: stays"]["n"] == 4


def test_who_knows_the_kind_alone_names_the_twin_as_often():
    """In every picture the first object of a kind speaks for its twin too: all labels are right, half of both."""
    dataset = MicroDataset(20, seed=5, image_size=64, split="lookalike")
    scores = SplitScores(dataset.read_attribute)
    for index in range(len(dataset)):
        regions = dataset[index].regions
        firsts: dict[str, Region] = {}
        blind = [firsts.setdefault(region.attributes["label"], region) for region in regions]
        scores.add_picture(regions, [prediction(region.texts, region.mask) for region in blind])
    table = scores.table()
    assert table["label en"]["mean"] == 1
    for language in ("en", "zh"):
        own, twin = (table[f"twins: {which} {language}"] for which in ("itself", "its twin"))
        assert own["mean"] == twin["mean"] == 0.5 and own["n"] > 60
    assert table["caption label and colour en"]["mean"] == 0.5
    assert table["one answer a picture: label and colour"]["mean"] < 0.2, "what ignores the prompt is a lower bar"


def test_an_object_without_a_twin_does_not_count():
    scores = SplitScores(read_pairs)
    truths = [Region(str(i), attributes={"label": "cup", "colour": "red"}) for i in range(2)]
    truths.append(Region("2", attributes={"label": "cup"}))
    scores.add_picture(truths, [prediction({"caption": {"en": "label=cup colour=red"}})] * 3)
    assert not scores.table().keys() & {"twins: itself en", "twins: its twin en"}
    truths.append(Region("3", attributes={"label": "cup", "colour": "blue"}))
    scores.add_picture(truths, [prediction({"caption": {"en": "label=cup colour=red"}})] * 4)
    table = scores.table()
    assert (table["twins: itself en"]["mean"], table["twins: its twin en"]["mean"]) == (2 / 3, 1 / 3)


def test_prompts_move_within_a_picture_only():
    scores = SplitScores()
    scores.add_picture(labelled("cup"), saying("cup"))
    scores.add_picture(labelled("key", "key"), saying("key", "cup"))
    assert "moved prompt: follows" not in scores.table()


def read_pairs(text: str, name: str, language: str) -> str | None:
    """A reader of texts such as "colour=red label=cup"."""
    pairs = dict(word.split("=") for word in text.split() if "=" in word)
    return pairs.get(name)


def test_attributes_are_read_off_the_caption():
    truth = Region(
        "0",
        texts={"caption": {"en": "colour=red label=cup size=big"}},
        attributes={"colour": "red", "label": "cup", "size": "big", "texture": "plain"},
    )
    scores = SplitScores(read_pairs)
    for said in (
        "colour=red label=cup",
        "colour=red label=key",
        "label=cup size=small",
        "colour=red label=cup size=big",
    ):
        scores.add_picture([truth], [prediction({"caption": {"en": said}})])
    means = {name: (row["mean"], row["n"]) for name, row in scores.table().items()}
    assert means == {
        "caption exact en": (1 / 4, 4),
        "caption colour en": (3 / 4, 4),
        "caption label en": (3 / 4, 4),
        "caption size en": (1 / 4, 4),
        # The texture is a fact, but the reference does not state it.
        "caption label and colour en": (2 / 4, 4),
        "majority colour": (1.0, 4),
        "one answer a picture: label": (1.0, 4),
        "one answer a picture: label and colour": (1.0, 4),
    }


def test_without_a_reader_texts_are_compared_word_for_word():
    truth = Region("0", texts={"caption": {"en": "a red cup", "zh": "杯子"}}, attributes={"colour": "red"})
    scores = SplitScores()
    scores.add_picture([truth], [prediction({"caption": {"en": "A red cup."}})])
    assert scores.table().keys() == {"caption exact en", "majority colour"}


def test_what_is_not_known_is_not_scored():
    scores = SplitScores()
    scores.add_picture([Region("0", mask=mask(1)), Region("1")], [prediction({}, mask(2)), prediction({})])
    assert {name: (row["mean"], row["n"]) for name, row in scores.table().items()} == {"mask IoU": (0.5, 1)}


def test_the_majority_is_the_floor():
    scores = SplitScores()
    scores.add_picture(labelled("cup", "key", "cup", "Cup"), saying("x", "x", "x", "x"))
    row = scores.table()["majority label"]
    assert (row["mean"], row["n"]) == (3 / 4, 4) and math.isnan(row["se"])


def test_one_answer_for_a_whole_picture_by_hand():
    """Two cups and a key, two of the three red, none like another: "cup" is right twice, "red cup" once."""
    facts = [("cup", "red"), ("cup", "blue"), ("key", "red")]
    truths = [Region(str(i), attributes={"label": label, "colour": colour}) for i, (label, colour) in enumerate(facts)]
    scores = SplitScores()
    scores.add_picture(truths, [prediction({})] * 3)
    scores.add_picture(truths[2:], [prediction({})])
    table = scores.table()
    row = table["one answer a picture: label"]
    assert (row["mean"], row["n"]) == (3 / 4, 4)
    assert table["one answer a picture: label and colour"]["mean"] == 2 / 4


def test_regions_and_predictions_must_match():
    with pytest.raises(ValueError):
        SplitScores().add_picture(labelled("cup", "key"), saying("cup"))


def test_the_table_as_markdown():
    nan = math.nan
    table = {
        "val / box": {"mask IoU": {"mean": 0.875, "se": 0.012, "n": 30}, "label en": {"mean": 0.5, "se": nan, "n": 1}},
        "val / point": {"mask IoU": {"mean": 1.0, "se": 0.0, "n": 7}},
        "none / box": {},
    }
    assert markdown(table) == [
        "| score | val / box | val / point | none / box |",
        "| --- | ---: | ---: | ---: |",
        "| mask IoU | 87.5 ± 1.2 | 100.0 ± 0.0 |  |",
        "| label en | 50.0 |  |  |",
        "| regions | 30 | 7 | 0 |",
    ]
