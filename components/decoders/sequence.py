"""Sequences for a language model: the embeddings of words, with those of regions in the places kept for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig

from pam_kit.components.decoders.conversation import NO_LABEL, REGION_ID, TokenizedText
from pam_kit.errors import PamKitError

# A batch is split by length when that leaves at most this share of its positions.
WORTH_SPLITTING = 0.85


@dataclass
class Sequences:
    """Q sequences of at most L positions.

    ``embeddings`` (Q, L, D), zero in the padding; ``labels`` (Q, L) long, NO_LABEL where nothing is learned;
    ``attention_mask`` (Q, L) bool, False in the padding. Language models count positions themselves, by columns.
    """

    embeddings: Tensor
    labels: Tensor
    attention_mask: Tensor


def assemble(
    words: nn.Embedding,
    texts: Sequence[TokenizedText],
    regions: Sequence[Sequence[int]],
    prefix: Sequence[Tensor] | Tensor,
    padding_side: Literal["left", "right"] = "right",
    max_positions: int | None = None,
) -> Sequences:
    """Q texts and the embeddings of R regions -> Q sequences.

    Every row is a list of places in one table of word and region embeddings, so the table is read in one go.

    Args:
        words: the language model's input embeddings.
        texts: Q texts, with REGION_ID where a region stands.
        regions: for each text the regions that stand in it, in their order, as rows of ``prefix``.
        prefix: R tensors (L_i, D), or one (R, L, D).
        padding_side: where short rows are filled up.
        max_positions: rows are cut behind that many positions, whatever stands there; null leaves them whole.

    Raises:
        PamKitError: a text keeps places for more or fewer regions than it is given.
    """
    ids = torch.cat([text.ids for text in texts])
    labels = torch.cat([text.labels for text in texts])
    is_word = ids != REGION_ID
    _check_regions(texts, regions, is_word)
    counts = torch.ones_like(ids)
    counts[~is_word], first_rows = _regions_in_table(regions, prefix_lengths(prefix), int(is_word.sum()))
    rows = is_word.cumsum(0) - 1
    rows[~is_word] = first_rows

    device = words.weight.device
    embedded = words(ids[is_word].to(device))
    blocks = prefix.flatten(0, 1) if isinstance(prefix, Tensor) else torch.cat(list(prefix) or [embedded[:0]])
    table = torch.cat([embedded, blocks.to(embedded.dtype), embedded.new_zeros(1, embedded.shape[1])])

    nothing = len(table) - 1
    position = torch.arange(int(counts.sum())) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    lengths = [int(part.sum()) for part in counts.split([len(text.ids) for text in texts])]
    index = (rows.repeat_interleave(counts) + position).split(lengths)
    labels = labels.where(is_word, NO_LABEL).repeat_interleave(counts).split(lengths)
    index = pad_sequence([row[:max_positions] for row in index], True, nothing, padding_side)
    labels = pad_sequence([row[:max_positions] for row in labels], True, NO_LABEL, padding_side)
    mask = index != nothing
    return Sequences(
        F.embedding(index.to(device), table, padding_idx=nothing),
        labels.to(device),
        mask.to(device),
    )


def _regions_in_table(regions: Sequence[Sequence[int]], lengths: list[int], start: int) -> tuple[Tensor, Tensor]:
    """How many rows of the table each region in the texts takes, and the first of them."""
    sizes = torch.tensor(lengths, dtype=torch.long)
    chosen = torch.tensor([region for inside in regions for region in inside], dtype=torch.long)
    return sizes[chosen], (start + sizes.cumsum(0) - sizes)[chosen]


def _check_regions(texts: Sequence[TokenizedText], regions: Sequence[Sequence[int]], is_word: Tensor) -> None:
    row = torch.arange(len(texts)).repeat_interleave(torch.tensor([len(text.ids) for text in texts]))
    places = row[~is_word].bincount(minlength=len(texts)).tolist()
    for number, (kept, inside) in enumerate(zip(places, regions, strict=True)):
        if kept != len(inside):
            raise PamKitError(f"text {number} has places for {kept} regions, but is about {len(inside)}")


def prefix_lengths(prefix: Sequence[Tensor] | Tensor) -> list[int]:
    """How many positions each region takes."""
    return [len(region) for region in prefix]


def most_positions(config: PreTrainedConfig) -> float:
    """How many positions a language model was made for; infinite where it does not say."""
    return getattr(config, "max_position_embeddings", None) or float("inf")


def check_length(length: int, config: PreTrainedConfig) -> None:
    """PamKitError where a sequence of so many positions is longer than the language model was made for."""
    if length > most_positions(config):
        raise PamKitError(
            f"a sequence of {length} positions is too long for a decoder made for {most_positions(config)}: ask "
            "shorter questions, read fewer frames or make fewer visual tokens (projector.ratio, "
            "projector.later_ratio); decoder.max_positions would cut it"
        )


def num_supervised(text: TokenizedText, lengths: Sequence[int], max_positions: int | None = None) -> int:
    """How many labels of a text are predicted once its regions, of so many positions each, stand in it.

    Nothing comes before the first position that it could be told from, and what is behind ``max_positions`` is cut.
    """
    is_word = text.ids != REGION_ID
    sizes = torch.ones_like(text.ids)
    sizes[~is_word] = torch.tensor(lengths, dtype=torch.long)
    place = sizes.cumsum(0) - sizes
    learned = is_word & (text.labels != NO_LABEL) & (place > 0)
    return int((learned if max_positions is None else learned & (place < max_positions)).sum())


def like_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Rows in one group, or in a short and a long one where that saves enough padding to be worth a second pass."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    longest = lengths[order[-1]]
    costs = [cut * lengths[order[cut - 1]] + (len(order) - cut) * longest for cut in range(1, len(order))]
    if not costs or min(costs) > WORTH_SPLITTING * len(order) * longest:
        return [order]
    cut = 1 + costs.index(min(costs))
    return [order[:cut], order[cut:]]
