"""Regions read part by part: the answers of ``generate`` on the same embeddings, and a cache that comes back whole."""

import pytest
import torch

from pam_kit.components.decoders.causal_lm import CausalLM
from pam_kit.components.decoders.spoken import SpokenAnswer
from pam_kit.errors import PamKitError

STEPS = 7
NATIVE_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{% if add_generation_prompt %}<me>{% endif %}"
)
# One region each, several of one region, some regions left out, an order of their own.
ABOUT = {"each": (0, 1, 2), "shared": (1, 1, 1, 1), "mixed": (2, 0, 2), "one": (1,)}


@pytest.mark.parametrize("about", ABOUT)
@pytest.mark.parametrize("template", ["plain", "chatml", "native"])
def test_answers_equal_those_of_generate(
    template, about, decoder, asked, region_embeddings, read_in_parts, assert_same
):
    made, embeddings, questions = decoder(template=template), region_embeddings(), asked(ABOUT[about])
    made.tokenizer.chat_template = NATIVE_TEMPLATE
    expected = made.generate(embeddings, questions, STEPS)
    for parts in ((11,), (1, 7, 3), (2, 2, 2, 2, 3)):
        assert_same(read_in_parts(made, embeddings, parts).answer(questions, STEPS), expected)
    assert len({answer.text for answer in expected}) > 1 or about == "one"


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_key_value_heads": 2},
        {"architecture": "gemma2", "spread": 5},
        {"architecture": "gpt_neox", "spread": 5},
        {"architecture": "gpt2"},
        {"architecture": "llama", "num_key_value_heads": 1},
    ],
    ids=lambda arguments: arguments.get("architecture", "qwen2"),
)
def test_other_architectures_answer_as_generate_does(
    arguments, decoder, asked, region_embeddings, read_in_parts, assert_same
):
    made, embeddings, questions = decoder(**arguments), region_embeddings(), asked(ABOUT["mixed"])
    expected = made.generate(embeddings, questions, STEPS)
    assert_same(read_in_parts(made, embeddings).answer(questions, STEPS), expected)


@pytest.mark.parametrize("kind", [None, "nf4"])
def test_adapters_and_quantised_weights_answer_as_generate_does(
    pretrained_decoder, kind, asked, region_embeddings, read_in_parts, assert_same
):
    pytest.importorskip("peft", reason="adapters need pam-kit[lora]")
    pytest.importorskip("bitsandbytes", reason="quantised weights need pam-kit[quantize]") if kind else None
    _, folder = pretrained_decoder()
    made = CausalLM(str(folder), template="plain", quantize=kind, lora_rank=2).eval()
    plain = made.generate(region_embeddings(), asked(), STEPS)
    for name, p in made.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(p, std=0.5)
    expected = made.generate(region_embeddings(), asked(), STEPS)
    assert_same(read_in_parts(made, region_embeddings()).answer(asked(), STEPS), expected)
    assert [answer.text for answer in expected] != [answer.text for answer in plain]


def test_each_question_of_a_batch_is_answered_as_if_alone(
    decoder, asked, region_embeddings, read_in_parts, assert_same
):
    made, about = decoder(template="chatml"), (0, 1, 1, 2)
    reading, questions = read_in_parts(made, region_embeddings()), asked(about)
    alone = []
    for row in range(4):
        alone += reading.answer(questions._chosen([row]), STEPS)
    assert_same(reading.answer(questions, STEPS), alone)


def test_an_answer_ends_at_its_end_token_and_steps_are_told_as_they_come(
    decoder, asked, region_embeddings, read_in_parts, assert_same, force_ends
):
    expected, found, steps = decoder(), decoder(), []
    reading = read_in_parts(found, region_embeddings())
    force_ends(expected)
    force_ends(found)
    answers = reading.answer(asked(), 20, steps.append)
    assert_same(answers, expected.generate(region_embeddings(), asked(), 20))
    ids, end = torch.stack(steps, 1), found.tokenizer.eos_token_id
    assert ids.shape == (3, 4), "decoding goes on until the last answer has ended, and no longer"
    for row, answer in enumerate(answers):
        count = row + 2
        assert int(ids[row, count - 1]) == end and ids[row, count:].tolist() == [-1] * (4 - count)
        assert found.tokenizer.decode(ids[row, : count - 1]).strip() == answer.text


@pytest.mark.parametrize("about", ["each", "mixed"])
def test_what_was_read_is_the_same_after_an_answer(about, decoder, asked, region_embeddings):
    """To the last bit, and so is what is read and answered next; also when the caller gives up in the middle."""
    made, embeddings = decoder(num_key_value_heads=2), region_embeddings(length=300)
    asked_early, untouched = (made.start_reading(3) for _ in range(2))

    def give_up(_ids):
        raise KeyboardInterrupt

    for part in embeddings.split(100, dim=1):
        asked_early.read(part)
        untouched.read(part)
        asked_early.answer(asked(ABOUT[about]), 5)
        with pytest.raises(KeyboardInterrupt):
            asked_early.answer(asked(ABOUT[about]), 5, give_up)
        assert_bit_identical(asked_early, untouched)
    assert asked_early.answer(asked(), STEPS) == untouched.answer(asked(), STEPS)


def assert_bit_identical(reading, other) -> None:
    own, others = reading.tensors(), other.tensors()
    assert own.keys() == others.keys() and reading.length == other.length
    assert all(torch.equal(own[name], others[name]) for name in own if name != "positions_computed")


@pytest.mark.parametrize("template", ["plain", "chatml"])
def test_a_restored_reading_goes_on_to_the_last_bit(template, decoder, asked, region_embeddings, read_in_parts):
    made, embeddings = decoder(template=template), region_embeddings(length=290)
    reading = read_in_parts(made, embeddings[:, :250], (100, 150))
    held = reading.tensors()
    restored = made.start_reading(3)
    restored.restore(held)
    reading.read(embeddings[:, 250:])
    restored.read(embeddings[:, 250:])
    assert_bit_identical(restored, reading)
    assert restored.answer(asked(), STEPS) == reading.answer(asked(), STEPS)
    assert restored.positions_computed == reading.positions_computed
    empty = made.start_reading(1)
    empty.restore(made.start_reading(3).tensors())
    empty.read(embeddings[:, :5])
    assert empty.length - 5 == made.start_reading(3).length


def test_pieces_put_together_are_the_text(decoder, asked, region_embeddings, read_in_parts):
    made = decoder(spread=9, vocab_size=280)
    reading = read_in_parts(made, region_embeddings())
    pieces, ended = [""] * 4, {}
    for step in reading.say(asked((0, 1, 2, 1)), 40):
        pieces = [before + new for before, new in zip(pieces, step.pieces, strict=True)]
        assert not set(ended) & set(step.ended)
        ended |= step.ended
    assert [piece.strip() for piece in pieces] == [ended[question].text for question in range(4)]
    assert len(max(pieces, key=len)) > 20


def test_a_character_of_several_tokens_is_told_once_it_is_whole(decoder):
    made = decoder(vocab_size=280)
    form = made._ready_format()
    said, pieces = SpokenAnswer(form), []
    ids = made.tokenizer("a 红色 的 cup 🙂!").input_ids
    assert len(ids) > 12, "this vocabulary spells Chinese in bytes"
    for number, word in enumerate(ids):
        pieces.append(said.add(word, -1.0, number == len(ids) - 1))
    assert "".join(pieces) == "a 红色 的 cup 🙂!" and not any("\ufffd" in piece for piece in pieces)
    assert {"红", "色"} <= {piece.strip() for piece in pieces} and "" in pieces
    assert said.text().text == "a 红色 的 cup 🙂!" and said.text().score == pytest.approx(torch.tensor(-1.0).exp())


def test_two_answers_about_one_reading_may_be_under_way_but_nothing_is_read_meanwhile(
    decoder, asked, region_embeddings, read_in_parts, assert_same
):
    reading = read_in_parts(decoder(), region_embeddings())
    alone, held = reading.answer(asked(), STEPS), reading.tensors()
    first = reading.say(asked(), STEPS)
    next(first)
    assert reading.answer(asked(), STEPS) == alone
    with pytest.raises(PamKitError, match="an answer about it is under way"):
        reading.read(region_embeddings())
    assert all(torch.equal(own, held[name]) for name, own in reading.tensors().items() if "." in name)
    part = reading.of_rows([2, 0])
    assert [a for step in first for a in step.ended.values()] == alone
    assert_same(part.answer(asked((1, 0)), STEPS), part.answer(asked((1, 0)), STEPS))
    assert_same(part.answer(asked((1,)), STEPS), alone[:1])
    reading.read(region_embeddings())


def test_readings_are_joined_and_parted(decoder, asked, region_embeddings, read_in_parts, assert_same):
    made, embeddings, about = decoder(num_key_value_heads=2), region_embeddings(4), (3, 0, 1, 3)
    expected = read_in_parts(made, embeddings).answer(asked(about), STEPS)
    parts = [read_in_parts(made, embeddings[rows]) for rows in ([1, 3], [0], [2])]
    whole = parts[1].joined([parts[0], parts[2]]).of_rows([0, 1, 3, 2])
    assert_same(whole.answer(asked(about), STEPS), expected)
    assert whole.count == 4 and parts[0].count == 2 and whole.positions_computed > 0
    with pytest.raises(PamKitError, match="one length"):
        parts[0].joined([read_in_parts(made, region_embeddings(1, 12), (12,))])
    with pytest.raises(PamKitError, match="one decoder"):
        parts[0].joined([read_in_parts(decoder(), embeddings)])


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("use", ["read", "answer", "score"])
def test_memory_that_ends_in_any_layer_leaves_what_was_read(
    use, layer, decoder, asked, region_embeddings, read_in_parts
):
    """Layers ahead of it have grown, it and those behind have not: each is rolled back by itself."""
    made = decoder(num_layers=3)
    reading, untouched = (read_in_parts(made, region_embeddings()) for _ in range(2))

    def short(_module, _inputs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = made.layers()[layer].register_forward_pre_hook(short)
    uses = {
        "read": lambda: reading.read(region_embeddings()),
        "answer": lambda: reading.answer(asked(), 3),
        "score": lambda: reading.score(asked(), ["a cup", "a bowl"]),
    }
    with pytest.raises(torch.OutOfMemoryError):
        uses[use]()
    hook.remove()
    assert_bit_identical(reading, untouched)
    assert reading.answer(asked(), STEPS) == untouched.answer(asked(), STEPS)


@pytest.mark.parametrize("template", ["plain", "chatml"])
def test_answers_are_scored_behind_what_was_read_as_by_the_decoder(
    template, decoder, asked, region_embeddings, read_in_parts
):
    made, embeddings, labels = decoder(template=template, spread=8), region_embeddings(), ["Name", "Name it", "What"]
    reading, untouched = (read_in_parts(made, embeddings) for _ in range(2))
    lent = reading.say(asked(), STEPS)
    for under_way in (False, True):
        if under_way:
            next(lent)
        for about in ABOUT.values():
            found, expected = reading.score(asked(about), labels), made.score_answers(embeddings, asked(about), labels)
            torch.testing.assert_close(found.log_probability, expected.log_probability, atol=1e-4, rtol=0)
            assert torch.equal(found.num_tokens, expected.num_tokens)
    lent.close()
    assert_bit_identical(reading, untouched)
    computed, rows = [], []
    made.layers()[0].register_forward_pre_hook(lambda _m, inputs: computed.append(inputs[0].shape[:2].numel()))
    made.lm.get_output_embeddings().register_forward_pre_hook(lambda _m, inp: rows.append(inp[0].shape[:2].numel()))
    before = (reading.positions_computed, reading.vocabulary_rows)
    reading.score(asked(), labels)
    now = (reading.positions_computed, reading.vocabulary_rows)
    assert (now[0] - before[0], now[1] - before[1]) == (sum(computed), sum(rows))
