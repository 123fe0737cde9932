"""Attention of a few new positions to many old ones, where several heads share their keys and values."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "pam_kit_grouped_sdpa"
# How many uses of ``sharing_heads`` each configuration is in, by its id; none is forgotten meanwhile.
_USES: dict[int, int] = {}
_LOCK = threading.Lock()


def grouped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options
) -> tuple[Tensor, None]:
    """What transformers' ``sdpa`` computes, without a copy of all keys and values for every head that shares them.

    With a mask and several new positions transformers repeats keys and values for each head, which takes longer than
    the attention where much was read and little is new. Here the heads of a group stand behind each other on the axis
    of the queries instead: (B, H, L, width) becomes (B, groups, H / groups * L, width).
    """
    shared, special = query.shape[1] // key.shape[1], options.get("position_bias") is not None
    if shared == 1 or query.shape[2] == 1 or special or attention_mask is None or attention_mask.shape[1] != 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    packed = query.unflatten(1, (-1, shared)).flatten(2, 3)
    mask = attention_mask.repeat(1, 1, shared, 1)
    chosen = {"dropout_p": options.get("dropout", 0.0), "scale": options.get("scaling")}
    out = F.scaled_dot_product_attention(packed, key, value, attn_mask=mask, **chosen)
    return out.unflatten(2, (shared, -1)).flatten(1, 2).transpose(1, 2).contiguous(), None


@contextmanager
def sharing_heads(config: PreTrainedConfig) -> Iterator[None]:
    """A model of this configuration uses ``grouped_attention`` meanwhile, if it would use ``sdpa``.

    Uses may overlap, also on several threads: the last one that ends puts back what was there.
    """
    with _LOCK:
        chosen = id(config) in _USES or config._attn_implementation == "sdpa"
        if chosen:
            config._attn_implementation = _NAME
            _USES[id(config)] = _USES.get(id(config), 0) + 1
    try:
        yield
    finally:
        with _LOCK:
            if chosen:
                _end_use(config)


def takes_booleans(config: PreTrainedConfig) -> bool:
    """Whether a model of this configuration takes masks of True and False; others add theirs to the scores."""
    return config._attn_implementation in ("sdpa", _NAME)


def _end_use(config: PreTrainedConfig) -> None:
    _USES[id(config)] -= 1
    if not _USES[id(config)]:
        del _USES[id(config)]
        config._attn_implementation = "sdpa"


AttentionInterface.register(_NAME, grouped_attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)
