"""Language models whose linear layers are kept in 8 or 4 bits, through bitsandbytes.

Quantised weights are frozen and stay out of checkpoints: they are read from where they came from.
"""

import logging
from typing import Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig

Quantization = Literal["int8", "nf4"]


def loading_options(kind: Quantization, dtype: torch.dtype) -> dict:
    """Options of from_pretrained that quantise while loading: LLM.int8() (arXiv 2208.07339) or 4-bit NormalFloat with
    doubly quantised constants (QLoRA, arXiv 2305.14314)."""
    _silence_casts()
    if kind == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    # One place for all layers; the trainer moves the model as a whole.
    return {"quantization_config": config, "device_map": {"": "cpu"}}


def leave_base_out_of_state(owner: nn.Module, name: str) -> None:
    """State dicts of ``owner`` hold nothing but adapters of its quantised child ``name``, and loading misses no more.

    They are whole again once the child is quantised no longer.
    """

    def left_out() -> tuple[str, ...]:
        child = owner.get_submodule(name)
        keys = child.state_dict() if getattr(child, "is_quantized", False) else ()
        return tuple(f".{name}.{key}" for key in keys if ".lora_" not in key)

    def drop(_owner, state: dict, prefix: str, _metadata) -> None:
        for key in left_out():
            state.pop(prefix + key.removeprefix("."))

    def excuse(_owner, keys) -> None:
        # The names here begin wherever loading began.
        endings = left_out()
        keys.missing_keys[:] = [key for key in keys.missing_keys if not f".{key}".endswith(endings)]

    owner.register_state_dict_post_hook(drop)
    owner.register_load_state_dict_post_hook(excuse)


def _silence_casts() -> None:
    """bitsandbytes computes int8 products in 16-bit, and says so at each of them."""
    log = logging.getLogger("bitsandbytes.autograd._functions")
    if _says_something_else not in log.filters:
        log.addFilter(_says_something_else)


def _says_something_else(record: logging.LogRecord) -> bool:
    return "inputs will be cast" not in record.getMessage()
