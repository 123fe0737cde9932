"""Captions of events: what is said can be read back, in both languages, also where a model says only half of it."""

from itertools import product

import pytest

from pam_kit.data.micro.painting import COLOURS
from pam_kit.data.micro.shapes import KINDS
from pam_kit.data.micro.video_language import (
    COVERS,
    DIRECTIONS,
    EVENT_ATTRIBUTES,
    EVENTS,
    EventFacts,
    all_event_texts,
    event_texts,
    find_event_attribute,
)
from pam_kit.tasks import LANGUAGES


def every_fact():
    """Every event of every look, with every word that it can take."""
    for label, colour in product(KINDS, COLOURS):
        for event in set(EVENTS) - {"moves", "turns", "hides"}:
            yield EventFacts(event, label, colour)
        for direction in DIRECTIONS:
            yield EventFacts("moves", label, colour, direction=direction)
        for other in COLOURS:
            if other != colour:
                yield EventFacts("turns", label, colour, old_colour=other)
            for cover in COVERS:
                yield EventFacts("hides", label, colour, behind=f"{other} {cover}")


def read_all(text: str, language: str) -> dict[str, str | None]:
    return {name: find_event_attribute(text, name, language) for name in EVENT_ATTRIBUTES}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_caption_reads_back(language):
    captions = set()
    for facts in every_fact():
        caption = event_texts(facts)["caption"][language]
        captions.add(caption)
        assert read_all(caption, language) == dict.fromkeys(EVENT_ATTRIBUTES) | facts.attributes()
    assert len(captions) == len(list(every_fact()))


@pytest.mark.parametrize(
    ("facts", "english", "chinese"),
    [
        (EventFacts("moves", "star", "red", direction="left"), "the red star moves left", "红色的星星向左移动"),
        (EventFacts("turns", "star", "blue", old_colour="red"), "the red star turns blue", "红色的星星变成蓝色"),
        (EventFacts("returns", "key", "blue"), "the blue key comes back", "蓝色的钥匙回来"),
        (
            EventFacts("hides", "star", "red", behind="green box"),
            "the red star hides behind the green box",
            "红色的星星躲到绿色的盒子后面",
        ),
    ],
)
def test_captions_read_as_written_by_hand(facts, english, chinese):
    assert event_texts(facts) == {"caption": {"en": english, "zh": chinese}}


def test_all_texts_hold_every_word_and_every_verb():
    texts = list(all_event_texts())
    assert len(texts) == 2 * len(KINDS) * len(COLOURS) * len(EVENTS)
    english = {word for text in texts for word in text.split()}
    assert english >= {*KINDS, *COLOURS, *DIRECTIONS}
    characters = set("".join(texts))
    for facts in every_fact():
        caption = event_texts(facts)["caption"]
        assert set(caption["en"].split()) <= english and set(caption["zh"]) <= characters
    for language in LANGUAGES:
        read = [read_all(text, language) for text in texts]
        assert {facts["event"] for facts in read} == {*EVENTS, None}  # None: texts of the other language
        for name, values in (("direction", DIRECTIONS), ("old_colour", COLOURS), ("label", KINDS)):
            assert {facts[name] for facts in read} == {*values, None}


@pytest.mark.parametrize(
    ("text", "language", "told"),
    [
        ("", "en", {}),
        ("The RED star moves left.", "en", {"event": "moves", "label": "star", "colour": "red", "direction": "left"}),
        ("the red star the the", "en", {"label": "star", "colour": "red"}),
        ("the red starfish grows", "en", {}),
        ("the red star growshrinks", "en", {"label": "star", "colour": "red"}),
        ("the red star turns turns", "en", {"label": "star", "colour": "red"}),
        ("红色的星星变成", "zh", {"label": "star", "colour": "red"}),
        ("红色的星星变大。", "zh", {"label": "star", "colour": "red", "event": "grows"}),
        ("红色星星变大", "zh", {}),
    ],
)
def test_what_is_not_said_is_not_read(text, language, told):
    assert read_all(text, language) == dict.fromkeys(EVENT_ATTRIBUTES) | told


@pytest.mark.parametrize(("attribute", "language"), [("texture", "en"), ("label", "fr")])
def test_unknown_attribute_or_language(attribute, language):
    with pytest.raises(ValueError, match="choose of event, label"):
        find_event_attribute("the red star grows", attribute, language)
