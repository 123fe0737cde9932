"""Readings that end with the model's room, and uses and models that are refused."""

import pytest
import torch

from pam_kit.errors import CheckpointError, PamKitError

WIDTH = 32
QUESTIONS = (
    "Name it.",
    "Provide a comprehensive and detailed description for this subject, its surroundings and its use, please.",
    "对该目标对象进行分类并给出标签",
    "What?",
)


def test_what_does_not_fit_is_not_restored(decoder, region_embeddings, read_in_parts):
    held = read_in_parts(decoder(), region_embeddings()).tensors()
    for other in (decoder(num_layers=1), decoder(num_layers=3), decoder(template="chatml")):
        with pytest.raises(CheckpointError, match="does not fit this decoder"):
            other.start_reading(3).restore(held)


@pytest.mark.parametrize("use", ["read", "answer"])
def test_a_reading_longer_than_the_model_is_refused(use, decoder, asked):
    made = decoder(max_length=64)
    reading = made.start_reading(1)
    reading.read(torch.zeros(1, 62, WIDTH))
    with pytest.raises(PamKitError, match="too long for a decoder made for 64.*decoder.max_positions"):
        reading.read(torch.zeros(1, 3, WIDTH)) if use == "read" else reading.answer(asked((0,)), 3)
    assert reading.length == 62


def test_an_answer_ends_where_the_model_does(decoder, asked, region_embeddings):
    made, steps = decoder(max_length=64), []
    reading = made.start_reading(1)
    reading.read(region_embeddings(1, 60 - len(made.tokenizer(f"{QUESTIONS[0]}\n").input_ids)))
    reading.answer(asked((0,)), 30, steps.append)
    assert 1 <= len(steps) <= 4


def test_what_would_be_cut_is_refused(decoder, asked):
    made = decoder(max_positions=30)
    reading = made.start_reading(1)
    reading.read(torch.zeros(1, 29, WIDTH))
    for use in (lambda: reading.read(torch.zeros(1, 2, WIDTH)), lambda: reading.answer(asked((0,)), 3)):
        with pytest.raises(PamKitError, match="longer than decoder.max_positions=30"):
            use()


def test_a_window_that_would_slide_is_refused(decoder, asked):
    made = decoder(architecture="gemma2", spread=5)
    made.lm.config.sliding_window = 40
    reading = made.start_reading(1)
    reading.read(torch.zeros(1, 25, WIDTH))
    with pytest.raises(PamKitError, match="longer than the window of 40"):
        reading.read(torch.zeros(1, 16, WIDTH))
    with pytest.raises(PamKitError, match="longer than the window of 40"):
        reading.answer(asked((0,)), 30)


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [("bloom", "counts positions by itself"), ("qwen3_next", "LinearAttention.*be put back")],
)
def test_models_that_cannot_be_read_part_by_part_are_refused(architecture, reason, decoder):
    with pytest.raises(PamKitError, match=reason):
        decoder(architecture=architecture, num_key_value_heads=2).start_reading(1)


def test_wrong_uses_name_what_is_wrong(decoder, asked, region_embeddings):
    made = decoder()
    with pytest.raises(PamKitError, match="at least one region, not 0"):
        made.start_reading(0)
    reading = made.start_reading(2)
    with pytest.raises(PamKitError, match="before anything was read"):
        reading.answer(asked((0,)), 3)
    for wrong in ((3, 4, WIDTH), (2, 4, WIDTH + 1), (2, WIDTH)):
        with pytest.raises(PamKitError, match=r"are \(2, L, 32\), not"):
            reading.read(torch.zeros(wrong))
    reading.read(region_embeddings(2))
    for region in (-1, 2):
        with pytest.raises(PamKitError, match=f"2 regions were read.*about region {region}"):
            reading.answer(asked((0, region)), 3)
    with pytest.raises(PamKitError, match="max_new_tokens is 0"):
        reading.answer(asked((0,)), 0)
    assert reading.answer(asked(()), 3) == []


def test_words_ahead_that_depend_on_the_question_are_refused(decoder, asked, region_embeddings, read_in_parts):
    made = decoder(template="native")
    made.tokenizer.chat_template = "{{ messages[1].content.split('\n')[1][:4] }}: {{ messages[1].content }}"
    reading = read_in_parts(made, region_embeddings(1))
    with pytest.raises(PamKitError, match="other words ahead of the region.*'Name it.'"):
        reading.answer(asked((0,)), 3)
