"""Regions read part by part: the answers of ``generate`` on the same embeddings, and a cache that comes back whole."""

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from pam_kit.components.decoders.causal_lm import CausalLM
from pam_kit.components.decoders.grouped_attention import grouped_attention, sharing_heads
from pam_kit.components.decoders.growing_cache import GrowingLayer
from pam_kit.components.decoders.spoken import SpokenAnswer
from pam_kit.components.decoders.vocabulary_rows import LARGE, few_rows
from pam_kit.contracts import GeneratedText, Questions
from pam_kit.errors import CheckpointError, PamKitError

WIDTH, LENGTH, STEPS = 32, 11, 7
QUESTIONS = (
    "Name it.",
    "Provide a comprehensive and detailed description for this subject, its surroundings and its use, please.",
    "对该目标对象进行分类并给出标签",
    "What?",
)
SIZES = dict(hidden_size=WIDTH, num_layers=2, num_heads=4, vocab_size=320, max_length=512, template="plain")
NATIVE_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{% if add_generation_prompt %}<me>{% endif %}"
)
# One region each, several of one region, some regions left out, an order of their own.
ABOUT = {"each": (0, 1, 2), "shared": (1, 1, 1, 1), "mixed": (2, 0, 2), "one": (1,)}


def decoder(seed: int = 0, spread: float = 15.0, **arguments) -> CausalLM:
    """A random decoder in eval mode; ``spread`` times wider weights make it say more than its last word again."""
    torch.manual_seed(seed)
    made = CausalLM(**{**SIZES, **arguments}).eval()
    for weight in (p.data for p in made.lm.parameters() if p.ndim > 1):
        weight *= spread
    if made.needs_vocabulary():
        made.learn_vocabulary(QUESTIONS)
    return made


def asked(regions=ABOUT["each"]) -> Questions:
    texts = [QUESTIONS[i % len(QUESTIONS)] for i in range(len(regions))]
    return Questions(torch.tensor(regions), texts, [""] * len(texts), ["caption"] * len(texts), ["en"] * len(texts))


def region_embeddings(regions: int = 3, length: int = LENGTH, seed: int = 0) -> torch.Tensor:
    return torch.randn(regions, length, WIDTH, generator=torch.Generator().manual_seed(seed))


def read_in_parts(made: CausalLM, embeddings: torch.Tensor, parts=(1, 7, 3)):
    reading = made.start_reading(len(embeddings))
    for part in embeddings.split(list(parts), dim=1):
        reading.read(part)
    return reading


def assert_same(found: list[GeneratedText], expected: list[GeneratedText]) -> None:
    assert [answer.text for answer in found] == [answer.text for answer in expected]
    assert [answer.score for answer in found] == pytest.approx([answer.score for answer in expected], abs=1e-4)


@pytest.mark.parametrize("about", ABOUT)
@pytest.mark.parametrize("template", ["plain", "chatml", "native"])
def test_answers_equal_those_of_generate(template, about):
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
def test_other_architectures_answer_as_generate_does(arguments):
    made, embeddings, questions = decoder(**arguments), region_embeddings(), asked(ABOUT["mixed"])
    expected = made.generate(embeddings, questions, STEPS)
    assert_same(read_in_parts(made, embeddings).answer(questions, STEPS), expected)


@pytest.mark.parametrize("kind", [None, "nf4"])
def test_adapters_and_quantised_weights_answer_as_generate_does(pretrained_decoder, kind):
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


def test_weights_of_half_the_size():
    """In bfloat16 sums depend on the shapes, so words may turn; the cache is of the weights' type and nobody fails."""
    made = decoder(dtype="bfloat16", spread=5)
    reading = read_in_parts(made, region_embeddings())
    assert {t.dtype for name, t in reading.tensors().items() if "." in name} == {torch.bfloat16}
    found, expected = (
        answers(asked(), 1)[0] for answers in (reading.answer, lambda *a: made.generate(region_embeddings(), *a))
    )
    assert found.text == expected.text and found.score == pytest.approx(expected.score, abs=0.05)


def test_each_question_of_a_batch_is_answered_as_if_alone():
    made, about = decoder(template="chatml"), (0, 1, 1, 2)
    reading, questions = read_in_parts(made, region_embeddings()), asked(about)
    alone = []
    for row in range(4):
        alone += reading.answer(questions._chosen([row]), STEPS)
    assert_same(reading.answer(questions, STEPS), alone)


def force_ends(made: CausalLM) -> None:
    """Row i is made to end after i + 2 tokens, and never before; behind an answer no row looks at its logits."""
    steps = []

    def end_rows(_module, _inputs, logits):
        logits = logits.clone()
        logits[..., made.tokenizer.eos_token_id] = -1e4
        # Those that have ended are the first, and are computed along or not.
        for row in range(3):
            if len(steps) == row + 1:
                logits[row - 3 + len(logits), ..., made.tokenizer.eos_token_id] = 1e4
        steps.append(None)
        return logits

    made.lm.get_output_embeddings().register_forward_hook(end_rows)


def test_an_answer_ends_at_its_end_token_and_steps_are_told_as_they_come():
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
def test_what_was_read_is_the_same_after_an_answer(about):
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
def test_a_restored_reading_goes_on_to_the_last_bit(template):
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


def test_what_does_not_fit_is_not_restored():
    held = read_in_parts(decoder(), region_embeddings()).tensors()
    for other in (decoder(num_layers=1), decoder(num_layers=3), decoder(template="chatml")):
        with pytest.raises(CheckpointError, match="does not fit this decoder"):
            other.start_reading(3).restore(held)


def test_an_answer_computes_the_question_and_itself_alone():
    made = decoder(template="chatml")
    reading = made.start_reading(3)
    ahead = len(
        made.tokenizer("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n").input_ids
    )
    assert reading.length == ahead and reading.positions_computed == ahead, "the same words are read once for all"
    last, outputs = made.layers()[-1], []
    hooks = [part.register_forward_hook(lambda *_: outputs.append(1)) for part in (last, made.lm)]
    reading.read(region_embeddings(length=40))
    assert reading.length == ahead + 40 and reading.positions_computed == ahead + 3 * 40
    assert outputs == [], "nothing is computed behind the keys and values of the last layer"
    for hook in hooks:
        hook.remove()
    steps, before, widths = [], reading.positions_computed, []
    hook = made.lm.get_input_embeddings().register_forward_hook(lambda _m, inputs, _o: widths.append(inputs[0].shape))
    reading.answer(asked((1, 1)), 4, steps.append)
    hook.remove()
    behind = [len(made.tokenizer(f"\n{q}<|im_end|>\n<|im_start|>assistant\n").input_ids) for q in QUESTIONS[:2]]
    assert reading.positions_computed - before == sum(behind) + 2 * (len(steps) - 1)
    assert widths == [(1, sum(behind))] + [(1, 2)] * (len(steps) - 1), "both stand behind the one copy of their region"


def test_only_the_next_words_reach_the_vocabulary_and_what_has_ended_is_not_computed():
    made, rows, positions, steps = decoder(num_key_value_heads=2), [], [], []
    reading = read_in_parts(made, region_embeddings())
    assert reading.vocabulary_rows == 0, "nothing is said while a region is read"
    force_ends(made)
    made.lm.get_output_embeddings().register_forward_hook(lambda _m, _inputs, logits: rows.append(len(logits)))
    made.layers()[0].register_forward_pre_hook(lambda _m, inputs: positions.append(inputs[0].shape[:2]))
    before = reading.positions_computed
    reading.answer(asked(), 20, steps.append)
    assert rows == [3, 3, 2, 1] and reading.vocabulary_rows == sum(rows)
    assert positions[1:] == [(3, 1)] * 3
    assert reading.positions_computed - before == sum(row * width for row, width in positions)
    of_one, positions[:] = read_in_parts(made, region_embeddings(1)), []
    hooked = of_one.say(asked((0, 0, 0)), 3)
    assert [len(next(hooked).pieces) for _ in range(3)] == [3] * 3 and [width for _, width in positions[-2:]] == [3, 3]


def test_questions_of_a_region_look_at_one_copy_of_its_keys(monkeypatch):
    """Eight questions, one row: the keys are as long as the region and all questions, and never repeated."""
    made, keys = decoder(num_key_value_heads=2), []
    attention = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda q, k, *rest, **more: (keys.append(tuple(k.shape[:3])), attention(q, k, *rest, **more))[1],
    )
    reading, questions = read_in_parts(made, region_embeddings(1, 40), (40,)), asked((0,) * 8)
    keys.clear()
    expected = made.generate(region_embeddings(1, 40), questions, 3)
    keys.clear()
    assert_same(reading.answer(questions, 3), expected)
    words = sum(len(made.tokenizer(f"{question}\n").input_ids) for question in questions.questions)
    assert set(keys) == {(1, 2, reading.length + words + said * 8) for said in range(3)}


def test_pieces_put_together_are_the_text():
    made = decoder(spread=9, vocab_size=280)
    reading = read_in_parts(made, region_embeddings())
    pieces, ended = [""] * 4, {}
    for step in reading.say(asked((0, 1, 2, 1)), 40):
        pieces = [before + new for before, new in zip(pieces, step.pieces, strict=True)]
        assert not set(ended) & set(step.ended)
        ended |= step.ended
    assert [piece.strip() for piece in pieces] == [ended[question].text for question in range(4)]
    assert len(max(pieces, key=len)) > 20


def test_a_character_of_several_tokens_is_told_once_it_is_whole():
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


def test_two_answers_about_one_reading_may_be_under_way_but_nothing_is_read_meanwhile():
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


def test_readings_are_joined_and_parted():
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


def test_a_cache_is_copied_only_when_it_is_full_or_rows_are_chosen(monkeypatch):
    made, places = decoder(), []
    reading = read_in_parts(made, region_embeddings(length=40), (40,))
    layer = reading._cache.layers[1]

    def note(_ids):
        places.append((layer.keys.data_ptr(), layer.values.data_ptr()))

    monkeypatch.setattr("pam_kit.components.decoders.reading.selected", None)
    reading.answer(asked(), 9, note)
    assert len(places) == 9 and len(set(places)) == 1
    assert layer.keys.stride(1) == 256 * layer.keys.shape[3], "a buffer of 256 positions is enough here"
    reading.read(region_embeddings(length=260))
    assert layer.keys.stride(1) == 512 * layer.keys.shape[3]
    with pytest.raises(TypeError):
        reading.answer(asked(ABOUT["mixed"]), 1)


def test_a_growing_layer_holds_what_transformers_own_does():
    generator, (own, other) = torch.Generator().manual_seed(0), (GrowingLayer(), DynamicLayer())
    for added, removed in ((3, 0), (250, 5), (20, 20), (1, 0), (700, 690), (1, 1), (30, 0)):
        keys, values = torch.randn(2, 2, 3, added, 4, generator=generator)
        for given, expected in zip(own.update(keys, values), other.update(keys, values), strict=True):
            assert torch.equal(given, expected)
        own.crop(-removed)
        other.crop(-removed)
        assert own.get_seq_length() == other.get_seq_length() and torch.equal(own.keys, other.keys)


@pytest.mark.parametrize(("heads", "groups"), [(6, 2), (4, 1), (4, 4)])
@pytest.mark.parametrize("new", [1, 5])
def test_grouped_attention_is_attention(heads, groups, new):
    """Against softmax(q k / sqrt(width)) v, head by head, with a mask that differs from row to row."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, heads, new, 8, generator=generator)
    key, value = torch.randn(2, 2, groups, 9, 8, generator=generator)
    mask = torch.rand(2, 1, new, 9, generator=generator) > 0.5
    mask[..., 0] = True
    module = torch.nn.Module()
    module.num_key_value_groups = heads // groups
    found, _ = grouped_attention(module, query, key, value, mask, scaling=8**-0.5)
    for head in range(heads):
        own = head * groups // heads
        logits = (query[:, head] @ key[:, own].mT / 8**0.5).masked_fill(~mask[:, 0], -torch.inf)
        torch.testing.assert_close(found[:, :, head], logits.softmax(-1) @ value[:, own])


@pytest.mark.parametrize(("own", "meanwhile"), [("sdpa", "pam_kit_grouped_sdpa"), ("eager", "eager")])
def test_uses_that_overlap_leave_the_attention_as_it_was(own, meanwhile):
    """As of two threads: the first use ends while the second one goes on."""
    config = decoder().lm.config
    config._attn_implementation = own
    first, second = sharing_heads(config), sharing_heads(config)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert config._attn_implementation == meanwhile
    second.__exit__(None, None, None)
    assert config._attn_implementation == own
    with pytest.raises(ValueError, match="inside"), sharing_heads(config):
        raise ValueError("inside")
    assert config._attn_implementation == own


def test_shared_heads_are_not_copied_and_the_model_is_as_before(monkeypatch):
    made, embeddings, seen = decoder(num_key_value_heads=1), region_embeddings(1, 40), []
    attention = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda q, k, *rest, **more: (seen.append((q.shape[:3], k.shape[:3])), attention(q, k, *rest, **more))[1],
    )
    reading = read_in_parts(made, embeddings, (30, 10))
    assert seen[-1] == ((1, 1, 4 * 10), (1, 1, 40)), "four heads of ten queries stand behind each other"
    reading.answer(asked((0,)), 2)
    assert {key[1] for _, key in seen[2:]} == {1} and made.lm.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("use", ["read", "answer"])
def test_a_reading_longer_than_the_model_is_refused(use):
    made = decoder(max_length=64)
    reading = made.start_reading(1)
    reading.read(torch.zeros(1, 62, WIDTH))
    with pytest.raises(PamKitError, match="too long for a decoder made for 64.*decoder.max_positions"):
        reading.read(torch.zeros(1, 3, WIDTH)) if use == "read" else reading.answer(asked((0,)), 3)
    assert reading.length == 62


def test_an_answer_ends_where_the_model_does():
    made, steps = decoder(max_length=64), []
    reading = made.start_reading(1)
    reading.read(region_embeddings(1, 60 - len(made.tokenizer(f"{QUESTIONS[0]}\n").input_ids)))
    reading.answer(asked((0,)), 30, steps.append)
    assert 1 <= len(steps) <= 4


def test_what_would_be_cut_is_refused():
    made = decoder(max_positions=30)
    reading = made.start_reading(1)
    reading.read(torch.zeros(1, 29, WIDTH))
    for use in (lambda: reading.read(torch.zeros(1, 2, WIDTH)), lambda: reading.answer(asked((0,)), 3)):
        with pytest.raises(PamKitError, match="longer than decoder.max_positions=30"):
            use()


def test_a_window_that_would_slide_is_refused():
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
def test_models_that_cannot_be_read_part_by_part_are_refused(architecture, reason):
    with pytest.raises(PamKitError, match=reason):
        decoder(architecture=architecture, num_key_value_heads=2).start_reading(1)


def test_wrong_uses_name_what_is_wrong():
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


def test_words_ahead_that_depend_on_the_question_are_refused():
    made = decoder(template="native")
    made.tokenizer.chat_template = "{{ messages[1].content.split('\n')[1][:4] }}: {{ messages[1].content }}"
    reading = read_in_parts(made, region_embeddings(1))
    with pytest.raises(PamKitError, match="other words ahead of the region.*'Name it.'"):
        reading.answer(asked((0,)), 3)


def test_a_few_rows_of_a_large_vocabulary_are_projected_as_before_and_the_model_is_as_it_was():
    made = decoder(vocab_size=300)
    torch.manual_seed(0)
    head = torch.nn.Linear(64, LARGE // 64 + 1, bias=True)
    made.lm.set_output_embeddings(head)
    for shape in ((8, 64), (2, 3, 64), (1, 64), (40, 64)):
        hidden = torch.randn(shape)
        with torch.no_grad():
            expected = head(hidden)
            with few_rows(made.lm), few_rows(made.lm):
                torch.testing.assert_close(head(hidden), expected, atol=1e-5, rtol=1e-5)
        assert "forward" not in vars(head)
    with few_rows(made.lm):
        head(torch.randn(4, 64)).sum().backward()
    assert head.weight.grad is not None and head.bias.grad is not None
    with pytest.raises(ValueError, match="inside"), few_rows(made.lm):
        raise ValueError("inside")
    assert "forward" not in vars(head)


@pytest.mark.parametrize("arguments", [{"num_key_value_heads": 2}, {"architecture": "gemma2", "spread": 5}])
@pytest.mark.parametrize("about", ABOUT)
def test_buffers_of_fixed_size_answer_as_growing_ones_do(arguments, about):
    made, embeddings, questions = decoder(**arguments), region_embeddings(), asked(ABOUT[about])
    expected = made.generate(embeddings, questions, STEPS)
    reading = made.start_reading(3, "fixed")
    reading.read(embeddings)
    for _ in range(2):
        assert_same(reading.answer(questions, STEPS), expected)
    assert reading.length == read_in_parts(made, embeddings).length


def test_steps_of_fixed_size_have_one_shape_also_where_answers_have_ended():
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
def test_a_compiled_step_answers_as_the_model_does_and_is_compiled_once():
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


def test_a_step_that_cannot_be_compiled_is_told(monkeypatch):
    from torch._inductor.exc import InductorError

    def broken(*_arguments, **_keywords):
        raise InductorError(RuntimeError("no compiler"), None)

    made = decoder()
    monkeypatch.setattr("torch.compile", lambda *_arguments, **_keywords: broken)
    reading = made.start_reading(3, "compiled")
    reading.read(region_embeddings())
    with pytest.raises(PamKitError, match="cannot be compiled here.*no compiler.*decode without it"):
        reading.answer(asked(), 3)


@pytest.mark.parametrize("precision", ["bfloat16", "int8", "nf4"])
def test_a_decoder_of_lower_precision_answers_nearly_as_before(precision):
    pytest.importorskip("bitsandbytes", reason="quantised weights need pam-kit[quantize]")
    made = decoder(num_key_value_heads=2, spread=5)
    before = sum(p.numel() * p.element_size() for p in made.layers()[0].parameters())
    expected = read_in_parts(made, region_embeddings()).answer(asked(), 1)
    made.lower_precision(precision)
    reading = read_in_parts(made, region_embeddings())
    found = reading.answer(asked(), 1)
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=0.15)
    share = sum(p.numel() * p.element_size() for p in made.layers()[0].parameters()) / before
    assert share == pytest.approx({"bfloat16": 0.5, "int8": 0.25, "nf4": 0.125}[precision], abs=0.03)
    assert_same(found, made.generate(region_embeddings(), asked(), 1)) if precision == "nf4" else None


def test_what_is_quantised_already_is_not_quantised_again(pretrained_decoder):
    pytest.importorskip("bitsandbytes", reason="quantised weights need pam-kit[quantize]")
    _, folder = pretrained_decoder()
    with pytest.raises(PamKitError, match="quantised already.*decoder.quantize=int8"):
        CausalLM(str(folder), template="plain", quantize="int8").lower_precision("nf4")
