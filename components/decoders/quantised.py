"""Language models whose linear layers are kept in 8 or 4 bits, through bitsandbytes.

Quantised weights are frozen and stay out of checkpoints: they are read from where they came from.
"""

import logging
from typing import Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from pam_kit.contracts import Precision
from pam_kit.errors import MissingPackageError, PamKitError

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


def keep_as_stored(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights another way once they answer on a CPU that knows AVX512-BF16.

    It does so in place: then products are of bfloat16, sizes that 32 does not divide are an error, and weights that
    move to another device are garbage (its issue 2078).
    """
    for part in model.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            part.support_avx512bf16_for_cpu = False


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


def lower_precision(model: PreTrainedModel, precision: Precision, device: torch.device | None = None) -> None:
    """Bring a language model to ``precision`` in place, see ``Decoder.lower_precision``.

    In 8 or 4 bits are the linear layers of its transformer, not the embeddings, the vocabulary projection and adapters.
    Layers are changed one after the other, so that no more than one of them is there twice.

    Raises:
        MissingPackageError: bitsandbytes is not installed.
        PamKitError: bitsandbytes cannot do that on this device.
    """
    if precision != "int8" and precision != "nf4":
        _cast(model, getattr(torch, precision))
    else:
        _silence_casts()
        for name in _linear_layers(model):
            layer = model.get_submodule(name)
            model.set_submodule(name, _quantised_layer(layer, precision, device or layer.weight.device))
            del layer
        keep_as_stored(model)
        model.requires_grad_(False)
    if device is not None:
        model.to(device)


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """As from_pretrained loads in ``dtype``: constants, which no checkpoint holds, keep theirs.

    Rotary frequencies of two bytes would turn words by whole radians behind some hundred positions.
    """
    constants = [
        (part, name, getattr(part, name)) for part in model.modules() for name in part._non_persistent_buffers_set
    ]
    model.to(dtype)
    for part, name, value in constants:
        setattr(part, name, value)


def _linear_layers(model: PreTrainedModel) -> list[str]:
    """The names of those that are to be quantised."""
    head = model.get_output_embeddings()
    kept = set() if head is None else set(head.modules())
    # Adapters stand in the layers that they change.
    for part in model.modules():
        kept |= {one for name in ("lora_A", "lora_B") if hasattr(part, name) for one in getattr(part, name).modules()}
    return [name for name, part in model.named_modules() if type(part) is nn.Linear and part not in kept]


def _quantised_layer(layer: nn.Linear, kind: Literal["int8", "nf4"], device: torch.device) -> nn.Module:
    bnb = _bitsandbytes()
    sizes = (layer.in_features, layer.out_features, layer.bias is not None)
    weight = layer.weight.data
    if kind == "int8":
        made = bnb.nn.Linear8bitLt(*sizes, has_fp16_weights=False)
        made.weight = bnb.nn.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
    else:
        made = bnb.nn.Linear4bit(*sizes, compute_dtype=weight.dtype, compress_statistics=True, quant_type="nf4")
        made.weight = bnb.nn.Params4bit(weight.cpu(), requires_grad=False, compress_statistics=True, quant_type="nf4")
    made.bias = layer.bias
    made = made.to(device)  # which quantises there
    if made.weight.dtype not in (torch.int8, torch.uint8):
        raise PamKitError(
            f"this version of bitsandbytes ({bnb.__version__}) keeps no {kind} weights on a {device.type}: use "
            "a newer one, another device or another precision"
        )
    return made


def _bitsandbytes():
    try:
        import bitsandbytes
    except ModuleNotFoundError as error:
        if error.name != "bitsandbytes":
            raise
        raise MissingPackageError(
            "weights of 8 or 4 bits need the package bitsandbytes, which is not installed; run: "
            'pip install "pam-kit[quantize]"'
        ) from error
    return bitsandbytes
