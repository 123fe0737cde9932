"""Sequences put together from words and regions, against ones put together by hand."""

import pytest
import torch
from torch import nn

from pam_kit.components.decoders.conversation import NO_LABEL, REGION_ID, TokenizedText
from pam_kit.components.decoders.sequence import assemble
from pam_kit.errors import PamKitError

R = REGION_ID
WORDS = nn.Embedding.from_pretrained(torch.arange(1, 61, dtype=torch.float32).reshape(20, 3), freeze=False)
# Three regions of two, four and one position; two texts about regions, one about none, one about two.
PREFIX = [torch.full((length, 3), -100.0 * length) for length in (2, 4, 1)]
IDS = ([5, R, 6], [R, 7, 8, 9], [1, 2], [R, 3, R])
REGIONS = ([1], [0], [], [2, 1])


def texts() -> list[TokenizedText]:
    """Every word is its own label but the word 7."""
    made = [torch.tensor(ids) for ids in IDS]
    return [TokenizedText(ids, ids.masked_fill((ids == R) | (ids == 7), NO_LABEL)) for ids in made]


def by_hand(row: int) -> tuple[list[list[float]], list[int]]:
    embeddings, labels, inside = [], [], iter(REGIONS[row])
    for word in IDS[row]:
        if word == R:
            region = PREFIX[next(inside)]
            embeddings += region.tolist()
            labels += [NO_LABEL] * len(region)
        else:
            embeddings.append(WORDS.weight[word].tolist())
            labels.append(NO_LABEL if word == 7 else word)
    return embeddings, labels


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("limit", [None, 5, 3])
def test_rows_are_what_they_would_be_alone(side, limit):
    made = assemble(WORDS, texts(), REGIONS, PREFIX, side, limit)
    rows = [[part[:limit] for part in by_hand(row)] for row in range(4)]
    longest = max(len(labels) for _, labels in rows)
    assert made.embeddings.shape == (4, longest, 3)
    for row, (embeddings, labels) in enumerate(rows):
        real = slice(0, len(labels)) if side == "right" else slice(longest - len(labels), longest)
        assert made.embeddings[row, real].tolist() == embeddings
        assert made.labels[row, real].tolist() == labels
        padding = torch.ones(longest, dtype=torch.bool)
        padding[real] = False
        assert torch.equal(made.attention_mask[row], ~padding)
        assert not made.embeddings[row, padding].any()
        assert (made.labels[row, padding] == NO_LABEL).all()


def test_regions_of_one_length_may_come_in_one_tensor():
    prefix = torch.randn(3, 4, 3)
    whole, apart = (assemble(WORDS, texts(), REGIONS, given) for given in (prefix, list(prefix)))
    assert torch.equal(whole.embeddings, apart.embeddings) and torch.equal(whole.labels, apart.labels)


def test_texts_alone_need_no_region():
    only = [texts()[2]]
    for none in ([], torch.empty(0, 4, 3)):
        made = assemble(WORDS, only, [[]], none)
        assert torch.equal(made.embeddings[0], WORDS.weight[[1, 2]])


def test_gradients_reach_words_and_regions_as_often_as_they_are_read():
    prefix = [region.clone().requires_grad_() for region in PREFIX]
    WORDS.weight.grad = None
    assemble(WORDS, texts(), REGIONS, prefix).embeddings.sum().backward()
    assert [region.grad.unique().tolist() for region in prefix] == [[1], [2], [1]]
    read = torch.tensor([word for ids in IDS for word in ids if word != R]).bincount(minlength=20).float()
    assert torch.equal(WORDS.weight.grad, read[:, None].expand(20, 3))


def test_a_region_that_nobody_asks_about_has_a_gradient_of_zero():
    """Whatever makes it is then part of every step, which distributed training relies on."""
    prefix = [torch.ones(2, 3, requires_grad=True)]
    assemble(WORDS, [texts()[2]], [[]], prefix).embeddings.sum().backward()
    assert torch.equal(prefix[0].grad, torch.zeros(2, 3))


@pytest.mark.parametrize("regions", [([1], [0], [0], [2, 1]), ([1], [], [], [2, 1])])
def test_a_text_with_places_for_other_regions_than_it_is_given(regions):
    with pytest.raises(PamKitError, match="text [12] has places for [01] regions, but is about [10]"):
        assemble(WORDS, texts(), regions, PREFIX)


def test_halved_weights_keep_their_type():
    made = assemble(nn.Embedding(20, 3, dtype=torch.bfloat16), texts(), REGIONS, PREFIX)
    assert made.embeddings.dtype == torch.bfloat16
