"""Texts of the micro dataset: what is said can be read back, in both languages."""

from dataclasses import replace
from itertools import product

import pytest

from pam_kit.data.micro.language import (
    COLOUR_WORDS_ZH,
    KIND_WORDS,
    POSITIONS,
    RELATIONS,
    SIZE_WORDS_ZH,
    TEXTURE_WORDS_ZH,
    Facts,
    all_texts,
    find_attribute,
    region_texts,
)
from pam_kit.data.micro.painting import COLOURS, SIZES, TEXTURES
from pam_kit.data.micro.shapes import KINDS
from pam_kit.tasks import LANGUAGES, TASKS

EXAMPLE = Facts("star", "red", "striped", "large", "top left", "left of", "ring", "orange", True)


def test_every_value_has_words_in_both_languages():
    assert set(KIND_WORDS) == set(KINDS)
    assert set(COLOUR_WORDS_ZH) == set(COLOURS)
    assert set(TEXTURE_WORDS_ZH) == set(TEXTURES)
    assert set(SIZE_WORDS_ZH) == set(SIZES)
    for table in (COLOUR_WORDS_ZH, TEXTURE_WORDS_ZH, SIZE_WORDS_ZH):
        assert len(set(table.values())) == len(table)
    assert len({w.zh for w in KIND_WORDS.values()}) == len(KINDS)


def test_texts_of_an_object_read_as_written_by_hand():
    texts = region_texts(EXAMPLE)
    assert texts["recognize"] == {"en": "star", "zh": "星星"}
    assert texts["caption"] == {"en": "a large striped red star", "zh": "一颗大的红色条纹星星"}
    assert texts["describe"] == {
        "en": "a large striped red star in the top left, left of an orange ring, partly hidden",
        "zh": "画面左上角有一颗大的红色条纹星星，在一个橙色圆环的左边，部分被遮挡",
    }
    assert texts["explain"]["en"].startswith("star: ") and texts["explain"]["zh"].startswith("星星：")
    plain = region_texts(replace(EXAMPLE, texture="plain", size="medium", position="top", occluded=False))
    assert plain["caption"]["zh"] == "一颗中等大小的纯红色星星"
    assert plain["describe"]["en"] == "a medium plain red star at the top, left of an orange ring, fully visible"


def test_every_task_is_answered_in_every_language():
    assert set(region_texts(EXAMPLE)) == set(TASKS)
    for texts in region_texts(EXAMPLE).values():
        assert set(texts) == set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_captions_and_descriptions_read_back(language):
    looks = product(SIZES, TEXTURES, COLOURS, KINDS)
    places = list(product(POSITIONS, RELATIONS, KINDS, COLOURS))
    for number, (size, texture, colour, kind) in enumerate(looks):
        position, relation, other, other_colour = places[number * 37 % len(places)]
        facts = Facts(kind, colour, texture, size, position, relation, other, other_colour, number % 2 == 0)
        texts = region_texts(facts)
        for task in ("caption", "describe"):
            for attribute in ("label", "colour", "texture", "size"):
                assert find_attribute(texts[task][language], attribute, language) == getattr(facts, attribute)
        described = texts["describe"][language]
        assert find_attribute(described, "position", language) == position
        assert find_attribute(described, "relation", language) == relation
        assert find_attribute(described, "neighbour", language) == f"{other_colour} {other}"
        assert find_attribute(texts["caption"][language], "position", language) is None
        assert find_attribute(texts["caption"][language], "neighbour", language) is None


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_labels_and_explanations_read_back(language, kind):
    texts = region_texts(replace(EXAMPLE, label=kind))
    for task in ("recognize", "explain"):
        assert find_attribute(texts[task][language], "label", language) == kind
        assert find_attribute(texts[task][language], "colour", language) is None


def test_every_definition_is_its_own():
    for field in ("definition", "definition_zh"):
        assert len({getattr(words, field) for words in KIND_WORDS.values()}) == len(KINDS)


@pytest.mark.parametrize(
    ("text", "attribute", "language", "value"),
    [
        ("", "label", "en", None),
        ("a starry fishing boat", "label", "en", None),
        ("A Large plain BLUE Key", "colour", "en", "blue"),
        ("a red blue star", "colour", "en", None),
        ("a small plain red box ring", "label", "en", "ring"),
        ("a red ball, left of a blue ring", "colour", "en", "red"),
        ("a red ball, left of a blue ring", "label", "en", "ball"),
        ("a ball on the bottom right", "position", "en", "bottom right"),
        ("一个小的红色皮球在右下角", "position", "zh", "bottom right"),
        ("一个中等大小的红色皮球", "size", "zh", "medium"),
        ("一个红色皮球，在一个蓝色圆环的左边", "colour", "zh", "red"),
    ],
)
def test_reading_single_attributes(text, attribute, language, value):
    assert find_attribute(text, attribute, language) == value


@pytest.mark.parametrize(("attribute", "language"), [("shade", "en"), ("label", "fr")])
def test_unknown_attribute_or_language(attribute, language):
    with pytest.raises(ValueError, match="choose of label, colour"):
        find_attribute("a red star", attribute, language)


def test_all_texts_are_few_enough_and_say_everything():
    texts = list(all_texts())
    assert len(texts) < 20000
    assert {t for kind in KINDS for t in region_texts(replace(EXAMPLE, label=kind))["explain"].values()} <= set(texts)
    descriptions = [t for t in texts if "visible" in t or "hidden" in t]
    for attribute, values in (("position", POSITIONS), ("relation", RELATIONS)):
        assert {find_attribute(t, attribute, "en") for t in descriptions} == set(values)
    neighbours = {find_attribute(t, "neighbour", "en") for t in descriptions}
    assert {n.split()[0] for n in neighbours} == set(COLOURS)
    assert {n.split()[1] for n in neighbours} == set(KINDS)
