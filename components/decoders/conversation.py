"""Conversations in ChatML as the released PAM tokenises them, with labels and places for the embeddings of regions."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pam_kit.errors import PamKitError

SYSTEM_MESSAGE = "You are a helpful assistant."
# Where a region stands in the text of a data set.
REGION_MARK = "<image>"
# The id that holds the place of a region's embeddings, and the label of a position that nothing is learned at.
REGION_ID, NO_LABEL = -200, -100

Supervision = Literal["answer", "released"]
Encode = Callable[[str], Sequence[int]]

Role = Literal["system", "user", "assistant"]
_ROLES: dict[str | None, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation; a region stands between any two of its ``pieces`` of text."""

    role: Role
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class TokenizedText:
    """``ids`` (T,) long, REGION_ID where a region stands; ``labels`` (T,) long, NO_LABEL where nothing is learned."""

    ids: Tensor
    labels: Tensor


def read_conversation(conversation: Sequence[Mapping[str, str]]) -> list[Turn]:
    """Turns from records such as ``{"from": "human", "value": ...}`` or ``{"role": "user", "content": ...}``.

    As in the released code an assistant's turn that nobody asked for is left out at the start, and the only region of
    a turn stands at its beginning, on a line of its own.
    """
    turns = []
    for record in conversation:
        role = record.get("role", record.get("from"))
        if role not in _ROLES:
            raise PamKitError(f"a conversation has a turn of {role!r}; its roles are {', '.join(map(str, _ROLES))}")
        text = region_first(record.get("content", record.get("value", "")))
        turns.append(Turn(_ROLES[role], tuple(text.split(REGION_MARK))))
    return turns[1:] if turns and turns[0].role == "assistant" else turns


def region_first(text: str) -> str:
    """Move the mark of a turn's only region to the front; two marks stay where they are."""
    if text.startswith(REGION_MARK) or len(re.findall(REGION_MARK, text)) != 1:
        return text
    return f"{REGION_MARK}\n{text.replace(REGION_MARK, '').strip()}".strip()


class ChatML:
    """Qwen's chat format: ``<|im_start|>role``, a newline, the text, ``<|im_end|>`` and a newline for every turn.

    A turn is tokenised in one go wherever no region interrupts it, so that tokens merge as in the released code.

    Args:
        tokenizer: one that knows the two chat tokens; PamKitError otherwise.
        encode: text -> ids without special tokens around them; null makes one of ``tokenizer`` that remembers texts.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encode: Encode | None = None):
        self._encode = encode or remembering_encoder(tokenizer)
        self.start, self.end = (_known_id(tokenizer, token) for token in ("<|im_start|>", "<|im_end|>"))
        newline = self._encode("\n")
        # A line break that merges with its neighbours is another token, and not among these.
        self._always_supervised = torch.tensor([self.start, self.end, *(newline if len(newline) == 1 else [])])

    def prompt(self, turns: Sequence[Turn]) -> Tensor:
        """Ids (T,) of turns that end with the user's, and of the words behind which the answer begins."""
        opening = torch.tensor(self._encode(_opening("assistant")))
        return torch.cat([self._turn_ids(turn) for turn in _with_system(turns)] + [opening])

    def conversation(self, turns: Sequence[Turn], supervision: Supervision = "answer") -> TokenizedText:
        """Ids and labels of a whole conversation, with the system message in front.

        ``answer`` labels the words of the assistant and the token that ends them; ``released`` the assistant's whole
        turns and, in any turn, the chat tokens and line breaks that are tokens of their own.
        """
        ids, labels = [], []
        for turn in _with_system(turns):
            ids.append(self._turn_ids(turn))
            labels.append(self._labels(turn, ids[-1], supervision))
        return TokenizedText(torch.cat(ids), torch.cat(labels))

    def _turn_ids(self, turn: Turn) -> Tensor:
        *pieces, last = turn.pieces
        first, *others = [*pieces, f"{last}<|im_end|>\n"]
        return join_pieces([f"{_opening(turn.role)}{first}", *others], self._encode)

    def _labels(self, turn: Turn, ids: Tensor, supervision: Supervision) -> Tensor:
        learned = torch.zeros(len(ids), dtype=torch.bool)
        if supervision == "released":
            learned |= torch.isin(ids, self._always_supervised)
            if turn.role == "assistant":
                learned |= ids != REGION_ID
        elif turn.role == "assistant":
            opening = zip(self._encode(_opening(turn.role)), ids.tolist(), strict=False)
            begin = len(list(takewhile(lambda pair: pair[0] == pair[1], opening)))
            end = int((ids == self.end).nonzero()[-1])
            learned[begin : end + 1] = True
            learned &= ids != REGION_ID
        return torch.where(learned, ids, NO_LABEL)


def join_pieces(pieces: Sequence[str], encode: Encode) -> Tensor:
    """Ids (T,) of pieces of text with REGION_ID between them."""
    ids = [*encode(pieces[0])]
    for piece in pieces[1:]:
        ids += [REGION_ID, *encode(piece)]
    return torch.tensor(ids, dtype=torch.long)


def remembering_encoder(tokenizer: PreTrainedTokenizerBase) -> Encode:
    """Text -> ids without special tokens around them; the same few questions are asked all the time."""
    return lru_cache(maxsize=4096)(lambda text: tokenizer(text, add_special_tokens=False).input_ids)


def _with_system(turns: Sequence[Turn]) -> list[Turn]:
    return list(turns) if turns and turns[0].role == "system" else [Turn("system", (SYSTEM_MESSAGE,)), *turns]


def _opening(role: str) -> str:
    return f"<|im_start|>{role}\n"


def _known_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    found = tokenizer.convert_tokens_to_ids(token)
    if found is None or found == tokenizer.unk_token_id:
        raise PamKitError(f"this tokenizer has no {token}; use decoder.template=native or plain")
    return found


def around_region(ids: Tensor) -> tuple[Tensor, Tensor]:
    """The ids (T,) of a text about one region: those ahead of its region, and those behind it."""
    place = int((ids == REGION_ID).nonzero()[0])
    return ids[:place], ids[place + 1 :]
