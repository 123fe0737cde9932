"""How a question about a region, and its answer, become tokens for a language model."""

from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pam_kit.components.decoders.conversation import (
    NO_LABEL,
    SYSTEM_MESSAGE,
    ChatML,
    Supervision,
    TokenizedText,
    Turn,
    join_pieces,
    remembering_encoder,
)
from pam_kit.contracts import GeneratedText
from pam_kit.errors import PamKitError

ChatTemplate = Literal["chatml", "native", "plain"]
_REGION_GOES_HERE = "<region-goes-here>"


class ChatFormat:
    """Questions and answers as ids for one tokenizer; the region stands before the question, on a line of its own.

    Attributes:
        end: the token that ends an answer.
        pad: the token that fills up the shorter answers of a batch.

    Args:
        tokenizer: that of the language model.
        template: ``chatml`` is Qwen's format as PAM uses it, ``native`` the tokenizer's own chat template, ``plain`` no
            format.
        supervision: what is learned of a question and its answer; ``released`` is known of ``chatml`` only.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: ChatTemplate, supervision: Supervision = "answer"):
        self.tokenizer, self.template, self.supervision = tokenizer, template, supervision
        self.encode = remembering_encoder(tokenizer)
        if template == "chatml":
            self._chatml = ChatML(tokenizer, self.encode)
            self.end = self._chatml.end
        elif tokenizer.eos_token_id is None:
            raise PamKitError("this tokenizer has no end-of-text token, so an answer could never end")
        else:
            self.end = tokenizer.eos_token_id
        self.pad = self.end if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def prompt(self, question: str, about_region: bool = True) -> Tensor:
        """Ids (T,) of a question; generation goes on behind them."""
        if self.template == "chatml":
            return self._chatml.prompt([_user_turn(question, about_region)])
        return join_pieces(self._pieces(question, about_region), self.encode)

    def example(self, question: str, answer: str, about_region: bool = True) -> TokenizedText:
        """Ids and labels of a question and its answer, up to the last token that is learned."""
        if self.template == "chatml":
            turns = [_user_turn(question, about_region), Turn("assistant", (answer,))]
            whole = self._chatml.conversation(turns, self.supervision)
            length = int((whole.labels != NO_LABEL).nonzero()[-1]) + 1
            return TokenizedText(whole.ids[:length], whole.labels[:length])
        asked = self.prompt(question, about_region)
        said = torch.cat([self.words(answer), torch.tensor([self.end])])
        return TokenizedText(torch.cat([asked, said]), torch.cat([torch.full_like(asked, NO_LABEL), said]))

    def words(self, text: str) -> Tensor:
        """Ids (T,) of a text without any format."""
        return torch.tensor(self.encode(text), dtype=torch.long)

    def character(self, character: str) -> int:
        """The id of a single character."""
        ids = self.encode(character)
        found = ids[0] if len(ids) == 1 else self.tokenizer.convert_tokens_to_ids(character)
        if found is None or found == self.tokenizer.unk_token_id:
            raise PamKitError(
                f"this tokenizer has no token for the character {character!r} alone, which a region's text needs; use "
                "another decoder or another perceiver"
            )
        return found

    def answer(self, ids: Tensor, log_probabilities: Tensor) -> GeneratedText:
        """The text and score of the ids (T,) that were said, up to the token that ends them; the rest is ignored."""
        ended = (ids == self.end).nonzero()
        stop = int(ended[0]) + 1 if len(ended) else len(ids)
        text = self.tokenizer.decode(ids[:stop], skip_special_tokens=True).strip()
        return GeneratedText(text=text, score=float(log_probabilities[:stop].mean().exp()))

    def _pieces(self, question: str, about_region: bool) -> list[str]:
        if self.template == "plain":
            return ["", f"{question}\n"] if about_region else [f"{question}\n"]
        if not self.tokenizer.chat_template:
            raise PamKitError("this tokenizer has no chat template of its own; use decoder.template=chatml or plain")
        messages = [
            {"role": "system", "content": SYSTEM_MESSAGE},
            {"role": "user", "content": f"{_REGION_GOES_HERE}\n{question}" if about_region else question},
        ]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text.split(_REGION_GOES_HERE, 1) if about_region else [text]


def _user_turn(question: str, about_region: bool) -> Turn:
    return Turn("user", ("", f"\n{question}") if about_region else (question,))
