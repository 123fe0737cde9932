"""The learned tokenizer: any text comes back, Chinese characters stay apart, and learning is repeatable."""

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pam_kit.components.decoders.vocabulary import END, PAD, START, learn_tokenizer

TEXTS = [
    "A red cup that stands left of a small green ball.",
    "A red ball that stands right of a red cup.",
    "球的左边有一个红色的杯子。",
    "杯子的左边有一个红色的球。",
] * 20
SIZE = 400
LEARNED = learn_tokenizer(TEXTS, SIZE)
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
# Any text, and text of the characters that were learned from.
ANY_TEXT = st.text(max_size=60) | st.text(alphabet="".join(sorted(set("".join(TEXTS)))) + "\n\u0301é", max_size=60)


@settings(max_examples=300, deadline=None)
@given(text=ANY_TEXT)
def test_any_text_comes_back_in_composed_form(text):
    ids = LEARNED(text, add_special_tokens=False).input_ids
    assert LEARNED.decode(ids) == unicodedata.normalize("NFC", text)
    assert all(0 <= i < len(LEARNED) for i in ids)


@settings(max_examples=100, deadline=None)
@given(text=ANY_TEXT)
def test_chinese_characters_are_never_merged(text):
    """No token holds a character and anything else, so a text of characters has at least as many tokens."""
    pieces = [LEARNED.decode([i]) for i in LEARNED(text, add_special_tokens=False).input_ids]
    assert all(len(piece) == 1 for piece in pieces if HAN.search(piece))


def test_no_entry_of_the_vocabulary_holds_two_chinese_characters():
    entries = [LEARNED.decode([i]) for i in range(len(LEARNED))]
    assert all(len(entry) == 1 for entry in entries if HAN.search(entry))
    assert {"球", "红", "杯"} <= set(entries), "frequent characters are worth a token"


def test_frequent_words_are_worth_a_token():
    assert len(LEARNED(" red").input_ids) == 1 < len(LEARNED(" zebra").input_ids)


def test_learning_is_deterministic():
    assert learn_tokenizer(iter(TEXTS), SIZE).get_vocab() == LEARNED.get_vocab()


@pytest.mark.parametrize("size", [259, 280, SIZE])
def test_size_is_a_limit(size):
    assert len(learn_tokenizer(TEXTS, size)) <= size
    assert len(learn_tokenizer(["a"], size)) == 259, (
        "256 bytes and three special tokens, when there is no more to learn"
    )


def test_special_tokens():
    assert LEARNED.pad_token == LEARNED.eos_token == PAD
    ids = LEARNED.convert_tokens_to_ids([PAD, START, END])
    assert ids == [0, 1, 2]
    spoken = LEARNED(f"{START}user\ncup{END}\n{PAD}").input_ids
    assert [i for i in spoken if i < 3] == [1, 2, 0]
    assert LEARNED.decode(spoken, skip_special_tokens=True) == "user\ncup\n"


def test_saved_and_loaded_it_is_the_same(tmp_path):
    LEARNED.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS[:4], "Ünïcödé \n two  spaces , 测试 🙂", f"{START}user{END}", "e\u0301"):
        ids = LEARNED(text).input_ids
        assert loaded(text).input_ids == ids and loaded.decode(ids) == LEARNED.decode(ids)
    assert (loaded.pad_token_id, loaded.eos_token_id, len(loaded)) == (0, 0, len(LEARNED))
