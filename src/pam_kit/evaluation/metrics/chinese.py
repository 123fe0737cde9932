"""Tokens of Chinese captions, which the PTB tokenizer would take for one word each. Torch-free."""

import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from pam_kit.errors import MissingPackageError

# First and last character of the blocks of CJK ideographs, kana and hangul that stand for a word or syllable each.
_IDEOGRAPHIC = (
    (0x3040, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7AF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)


def character_tokens(texts: Sequence[str]) -> list[str]:
    """Each ideograph a token, other letters and digits in words as written; lower-cased, without punctuation."""
    return [" ".join(_characters(text)) for text in texts]


def jieba_tokens(texts: Sequence[str]) -> list[str]:
    """The words that jieba finds; lower-cased, without punctuation. Raises MissingPackageError without jieba."""
    cut = _jieba().lcut
    return [" ".join(word for piece in cut(_folded(text)) for word in _plain(piece).split()) for text in texts]


def _characters(text: str) -> Iterator[str]:
    spaced = "".join(f" {one} " if _is_ideograph(one) else one for one in _plain(_folded(text)))
    return iter(spaced.split())


def _folded(text: str) -> str:
    """Lower case, and full-width letters, digits and signs as those of ASCII."""
    return unicodedata.normalize("NFKC", text).lower()


def _plain(text: str) -> str:
    return "".join(" " if unicodedata.category(one).startswith("P") else one for one in text)


def _is_ideograph(one: str) -> bool:
    return any(first <= ord(one) <= last for first, last in _IDEOGRAPHIC)


@cache
def _jieba() -> Any:
    try:
        import jieba
    except ModuleNotFoundError:
        raise MissingPackageError(
            "Chinese words need the package jieba: pip install 'pam-kit[eval]' (captions_zh_characters does without)"
        ) from None
    import logging

    jieba.setLogLevel(logging.WARNING)
    tokenizer = jieba.Tokenizer()
    # By itself it reads a cache from the shared temporary folder, where anybody may have put one.
    with tempfile.TemporaryDirectory(prefix="pam-kit-jieba-") as folder:
        tokenizer.tmp_dir = folder
        tokenizer.initialize()
    return tokenizer
