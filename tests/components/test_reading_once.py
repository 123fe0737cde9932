"""What a reading computes: nothing twice, nothing that nobody looks at, and no copies of keys and values."""

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from pam_kit.components.decoders.grouped_attention import grouped_attention, sharing_heads
from pam_kit.components.decoders.growing_cache import GrowingLayer
from pam_kit.components.decoders.vocabulary_rows import LARGE, few_rows

QUESTIONS = (
    "Name it.",
    "Provide a comprehensive and detailed description for this subject, its surroundings and its use, please.",
    "对该目标对象进行分类并给出标签",
    "What?",
)
# One region each, several of one region, some regions left out, an order of their own.
ABOUT = {"each": (0, 1, 2), "shared": (1, 1, 1, 1), "mixed": (2, 0, 2), "one": (1,)}


def test_an_answer_computes_the_question_and_itself_alone(decoder, asked, region_embeddings):
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


def test_only_the_next_words_reach_the_vocabulary_and_what_has_ended_is_not_computed(
    decoder, asked, region_embeddings, read_in_parts, force_ends
):
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


def test_questions_of_a_region_look_at_one_copy_of_its_keys(
    monkeypatch, decoder, asked, region_embeddings, read_in_parts, assert_same
):
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


def test_a_cache_is_copied_only_when_it_is_full_or_rows_are_chosen(
    monkeypatch, decoder, asked, region_embeddings, read_in_parts
):
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
def test_uses_that_overlap_leave_the_attention_as_it_was(own, meanwhile, decoder):
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


def test_shared_heads_are_not_copied_and_the_model_is_as_before(
    monkeypatch, decoder, asked, region_embeddings, read_in_parts
):
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


def test_a_few_rows_of_a_large_vocabulary_are_projected_as_before_and_the_model_is_as_it_was(decoder):
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
