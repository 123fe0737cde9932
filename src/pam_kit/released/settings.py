"""The released PAM's config.json and a recipe: the sizes of its language model, and what all its releases share.

Torch-free.
"""

from typing import Any

from pam_kit.errors import CheckpointError

ARCHITECTURE = "LlavaQwenForCausalLM"
# Keys of config.json -> arguments of the decoder.
_SIZES = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_key_value_heads",
    "intermediate_size": "intermediate_size",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_length",
}
# What belongs to the language model alone, with the value that the released code takes where the file says nothing.
_LANGUAGE_MODEL = {
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "eos_token_id": None,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_window_layers": 28,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
    "use_cache": True,
    "use_sliding_window": False,
}
# What the released code reads beyond that; it is the same in every release.
_REGION_MODEL = {
    "architectures": [ARCHITECTURE],
    "mm_hidden_size": 256,
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_tower": "meta/sam2.1_hiera_large",
    "model_type": "llava_qwen",
    "rope_scaling": None,
    "tokenizer_padding_side": "right",
    "use_mm_proj": True,
}
_MAX_POSITIONS = "tokenizer_model_max_length"
_RELEASED_MAX_POSITIONS = 12288
# The version that the released code is made for; later ones name the same settings otherwise.
_TRANSFORMERS = "4.40.2"


def decoder_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """config.json -> the arguments of the decoder ``causal_lm``, but for its dtype.

    Raises:
        CheckpointError: sizes are missing, or the file asks for something that no released PAM has.
    """
    missing = [key for key in _SIZES if not isinstance(config.get(key), int)]
    if missing:
        raise CheckpointError(f"config.json lacks the sizes of its language model: {', '.join(missing)}")
    known = {key: _REGION_MODEL[key] for key in ("mm_projector_type", "mm_hidden_size", "rope_scaling")}
    known["use_sliding_window"] = False
    other = [
        f"{key} is {config[key]!r}, not {value!r}" for key, value in known.items() if config.get(key, value) != value
    ]
    if other:
        raise CheckpointError(f"config.json is not that of a released PAM: {'; '.join(other)}")
    return {
        "architecture": "qwen2",
        **{argument: config[key] for key, argument in _SIZES.items()},
        "template": "chatml",
        "supervision": "released",
        "max_positions": config.get(_MAX_POSITIONS) or _RELEASED_MAX_POSITIONS,
    }


def language_model_config(config: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """The config.json of the language model by itself, a Qwen2."""
    own = {key: config.get(key, default) for key, default in _LANGUAGE_MODEL.items()}
    return {"model_type": "qwen2", **{key: config[key] for key in _SIZES}, **own, "vocab_size": vocab_size}


def released_config(language_model: Any, max_positions: int | None, dtype: str) -> dict[str, Any]:
    """The released config.json around a Qwen2's configuration, with settings named as the released code reads them.

    Args:
        language_model: a transformers ``Qwen2Config``.
        max_positions: longest sequence that is trained on.
        dtype: for example bfloat16.
    """
    rope = {"rope_theta": language_model.rope_parameters["rope_theta"]}
    own = {key: getattr(language_model, key) for key in (*_SIZES, *_LANGUAGE_MODEL) if key not in rope}
    return dict(
        sorted(
            {
                **own,
                **rope,
                # Unused, since use_sliding_window is false, but the released code's own configuration wants a number.
                "sliding_window": language_model.max_position_embeddings,
                **_REGION_MODEL,
                _MAX_POSITIONS: max_positions or _RELEASED_MAX_POSITIONS,
                "torch_dtype": dtype,
                "transformers_version": _TRANSFORMERS,
            }.items()
        )
    )
