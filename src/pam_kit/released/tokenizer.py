"""Tokenizer files in the form that the released code reads: that of transformers 4, and of its slow tokenizers."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from pam_kit.atomic_files import write_json

_FLAGS = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")


def save_for_released_code(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write what ``save_pretrained`` writes, and beside it vocabulary, merges and added tokens by themselves."""
    tokenizer.save_pretrained(folder)
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model, added = whole["model"], whole["added_tokens"]
    special = {token["content"] for token in added}
    write_json(folder / "vocab.json", {word: i for word, i in model["vocab"].items() if word not in special})
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["added_tokens_decoder"] = {str(token["id"]): {flag: token[flag] for flag in _FLAGS} for token in added}
    config["additional_special_tokens"] = config.pop("extra_special_tokens", [])
    config["tokenizer_class"] = "Qwen2Tokenizer"
    write_json(folder / "tokenizer_config.json", config)
