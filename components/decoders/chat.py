"""How a question about a region is put to a language model: the text before the region, and the text after it."""

from typing import Literal

from transformers import PreTrainedTokenizerBase

from pam_kit.errors import PamKitError

ChatTemplate = Literal["chatml", "native", "plain"]
SYSTEM_MESSAGE = "You are a helpful assistant."
_REGION_MARK = "<region-goes-here>"


def chat_pieces(tokenizer: PreTrainedTokenizerBase, template: ChatTemplate, question: str) -> tuple[str, str]:
    """The text before and after the region's embeddings.

    ``chatml`` is Qwen's format as PAM uses it, ``native`` the tokenizer's own chat template, ``plain`` no format.
    """
    if template == "plain":
        return "", f"{question}\n"
    if template == "chatml":
        return (
            f"<|im_start|>system\n{SYSTEM_MESSAGE}<|im_end|>\n<|im_start|>user\n",
            f"\n{question}<|im_end|>\n<|im_start|>assistant\n",
        )
    if not tokenizer.chat_template:
        raise PamKitError("this tokenizer has no chat template of its own; use decoder.template=chatml or plain")
    messages = [
        {"role": "system", "content": SYSTEM_MESSAGE},
        {"role": "user", "content": f"{_REGION_MARK}\n{question}"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before, after = text.split(_REGION_MARK)
    return before, after


def end_of_answer(tokenizer: PreTrainedTokenizerBase, template: ChatTemplate) -> int:
    """The token that ends an answer."""
    if template == "chatml":
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        if end is None or end == tokenizer.unk_token_id:
            raise PamKitError("this tokenizer has no <|im_end|>; use decoder.template=native or plain")
        return end
    if tokenizer.eos_token_id is None:
        raise PamKitError("this tokenizer has no end-of-text token, so an answer could never end")
    return tokenizer.eos_token_id
