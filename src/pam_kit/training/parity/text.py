"""Conversations as text and as ids: what is read, what is learned, and what the released code leaves out."""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pam_kit.components.decoders.conversation import (
    NO_LABEL,
    REGION_ID,
    REGION_MARK,
    SYSTEM_MESSAGE,
    ChatML,
    read_conversation,
    region_first,
)
from pam_kit.training.parity.golden_file import GoldenFile, GoldenFileError
from pam_kit.training.parity.report import Comparison, exact
from pam_kit.training.parity.tokenizer import tokenizer_folder

_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)
_GIVEN = {"name", "conversation_in"}
_SPEAKERS = {"user": "human", "assistant": "gpt"}

Conversation = Sequence[Mapping[str, str]]


def check_conversations(file: GoldenFile) -> list[Comparison]:
    """Ids, labels and texts of conversations in training, and of their first question in inference."""
    with tokenizer_folder(file) as folder:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    said = file.json
    found = [
        exact("system_message", SYSTEM_MESSAGE, said["system_message"]),
        exact("ignore_index", NO_LABEL, said["ignore_index"]),
        exact("image_token_index", REGION_ID, said["image_token_index"]),
        exact("newline_id", tokenizer("\n").input_ids, [said["newline_id"]]),
        exact("im_start_id", tokenizer.convert_tokens_to_ids("<|im_start|>"), said["im_start_id"]),
        exact("im_end_id", tokenizer.convert_tokens_to_ids("<|im_end|>"), said["im_end_id"]),
    ]
    chat = ChatML(tokenizer)
    for case in said["cases"]:
        own = _case(chat, tokenizer, case["conversation_in"])
        unknown = sorted(set(case) - set(own) - _GIVEN)
        if unknown:
            raise GoldenFileError(f"case {case['name']} states {', '.join(unknown)}, which this check does not know")
        found += [exact(name, value, case[name], of=case["name"]) for name, value in own.items() if name in case]
    return found


def text_of(ids: Tensor, tokenizer: PreTrainedTokenizerBase) -> str:
    """Ids (T,) -> the text, with the mark of a region wherever one stands."""
    pieces: list[list[int]] = [[]]
    for token in ids.tolist():
        if token == REGION_ID:
            pieces.append([])
        else:
            pieces[-1].append(token)
    return REGION_MARK.join(tokenizer.decode(piece) for piece in pieces)


def conversation_of(text: str) -> list[dict[str, str]]:
    """The turns that a text in the chat format consists of, the system's left out."""
    turns = [(role, value) for role, value in _TURN.findall(text) if role in _SPEAKERS]
    return [{"from": _SPEAKERS[role], "value": value} for role, value in turns]


def _case(chat: ChatML, tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> dict[str, object]:
    turns = read_conversation(conversation)
    whole, prompt = chat.conversation(turns, "released"), chat.prompt(turns[:1])
    ids, labels = whole.ids.tolist(), whole.labels.tolist()
    return {
        "conversation_after_multimodal": [{**turn, "value": region_first(turn["value"])} for turn in conversation],
        "training_text": text_of(whole.ids, tokenizer),
        "input_ids": ids,
        "labels": labels,
        "unmasked_positions": [i for i, label in enumerate(labels) if label != NO_LABEL],
        "n_tokens": len(ids),
        "inference_prompt": text_of(prompt, tokenizer),
        "inference_input_ids": prompt.tolist(),
        "inference_ids_are_prefix_of_training_ids": ids[: len(prompt)] == prompt.tolist(),
    }
