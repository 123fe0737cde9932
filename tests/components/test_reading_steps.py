"""Steps of an answer in buffers of fixed size, and compiled ones: the answers of growing keys and values."""

import pytest
import torch

from pam_kit.errors import PamKitError

WIDTH = 32
STEPS = 7
# One region each, several of one region, some regions left out, an order of their own.
ABOUT = {"each": (0, 1, 2), "shared": (1, 1, 1, 1), "mixed": (2, 0, 2), "one": (1,)}


@pytest.mark.parametrize("arguments", [{"num_key_value_heads": 2}, {"architecture": "gemma2", "spread": 5}])
@pytest.mark.parametrize("about", ABOUT)
def test_buffers_of_fixed_size_answer_as_growing_ones_do(
    arguments, about, decoder, asked, region_embeddings, read_in_parts, assert_same
):
    made, embeddings, questions = decoder(**arguments), region_embeddings(), asked(ABOUT[about])
    expected = made.generate(embeddings, questions, STEPS)
    reading = made.start_reading(3, "fixed")
    reading.read(embeddings)
    for _ in range(2):
        assert_same(reading.answer(questions, STEPS), expected)
    assert reading.length == read_in_parts(made, embeddings).length


def test_steps_of_fixed_size_have_one_shape_also_where_answers_have_ended(
    decoder, asked, region_embeddings, read_in_parts, assert_same, force_ends
):
    made, shapes, masks, steps = decoder(), [], [], []
    reading = made.start_reading(3, "fixed")
    reading.read(region_embeddings())
    force_ends(made)
    first = made.layers()[0]

    def note(_module, inputs, keywords):
        shapes.append(tuple(inputs[0].shape))
        masks.append(tuple(keywords["attention_mask"].shape))

    first.register_forward_pre_hook(note, with_kwargs=True)
    answers = reading.answer(asked(), 20, steps.append)
    assert len(shapes) == 4 and set(shapes[1:]) == {(3, 1, WIDTH)}
    assert {mask[-1] % 64 for mask in masks} == {0} and len(set(masks[1:])) == 1
    grown = decoder()
    growing = read_in_parts(grown, region_embeddings())
    force_ends(grown)
    assert_same(answers, growing.answer(asked(), 20))


@pytest.mark.slow
def test_a_compiled_step_answers_as_the_model_does_and_is_compiled_once(decoder, asked, region_embeddings, assert_same):
    """Slow: a compiler runs."""
    made, embeddings, questions = decoder(num_key_value_heads=2), region_embeddings(), asked(ABOUT["mixed"])
    expected = made.generate(embeddings, questions, STEPS)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for _ in range(2):
        reading = made.start_reading(3, "compiled")
        reading.read(embeddings)
        assert_same(reading.answer(questions, STEPS), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_a_step_that_cannot_be_compiled_is_told(monkeypatch, decoder, asked, region_embeddings):
    from torch._inductor.exc import InductorError

    def broken(*_arguments, **_keywords):
        raise InductorError(RuntimeError("no compiler"), None)

    made = decoder()
    monkeypatch.setattr("torch.compile", lambda *_arguments, **_keywords: broken)
    reading = made.start_reading(3, "compiled")
    reading.read(region_embeddings())
    with pytest.raises(PamKitError, match="cannot be compiled here.*no compiler.*decode without it"):
        reading.answer(asked(), 3)
