"""One answer as it is said, token by token."""

import torch

from pam_kit.components.decoders.chat import ChatFormat
from pam_kit.contracts import GeneratedText

# What stands for bytes that are no whole character yet.
_UNFINISHED = "\ufffd"


class SpokenAnswer:
    """The tokens of one answer so far, and its text in pieces that are told once each.

    A character may be spread over several tokens: it is told with the last of them.

    Attributes:
        ended: whether the token that ends an answer was among them.
    """

    def __init__(self, form: ChatFormat):
        self._form, self._ids, self._logs = form, list[int](), list[float]()
        self._shown, self._pending = 0, 0  # the tokens before these have been told; those between give them context
        self.ended = False

    def add(self, word: int, log_probability: float, last: bool = False) -> str:
        """The next token -> what can be told now; ``last``: nothing follows, whether it is an end or not."""
        self._ids.append(word)
        self._logs.append(log_probability)
        self.ended = word == self._form.end
        told = self._decoded(self._shown, self._pending)
        text = self._decoded(self._shown, len(self._ids))
        if len(text) <= len(told) or (text.endswith(_UNFINISHED) and not (last or self.ended)):
            return ""
        self._shown, self._pending = self._pending, len(self._ids)
        return text[len(told) :]

    def text(self) -> GeneratedText:
        """The whole answer."""
        return self._form.answer(torch.tensor(self._ids), torch.tensor(self._logs))

    def _decoded(self, start: int, stop: int) -> str:
        return self._form.tokenizer.decode(self._ids[start:stop], skip_special_tokens=True)
