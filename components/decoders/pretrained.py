"""Language models and tokenizers from a folder or the hub, and random ones from their sizes."""

import json
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from pam_kit.components.decoders.quantised import keep_as_stored
from pam_kit.errors import CheckpointError

# In the order in which transformers looks for them.
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def random_model(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def pretrained_model(path: str, sizes: dict[str, int | None], dtype: torch.dtype, **options) -> PreTrainedModel:
    """The model of a folder or hub name, checked against ``sizes``; ``options`` go to from_pretrained."""
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        _check_sizes(path, config, sizes)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise _own_code(path, "config.json", error) or _unreachable(path) from error
    keep_as_stored(model)
    return model


def pretrained_config(path: str, sizes: dict[str, int | None]) -> PreTrainedConfig:
    """The configuration of a folder or hub name, checked against ``sizes``."""
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _own_code(path, "config.json", error) or _unreachable(path) from error
    _check_sizes(path, config, sizes)
    return config


def weight_files(path: str) -> tuple[Path, ...]:
    """The files that ``pretrained_model`` has read the weights of ``path`` from: local ones, or those in the cache."""
    for name in _WEIGHT_FILES:
        found = _local_file(path, name)
        if found is not None and found.suffix == ".json":
            shards = json.loads(found.read_text(encoding="utf-8"))["weight_map"].values()
            return tuple(file for shard in sorted(set(shards)) if (file := _local_file(path, shard)))
        if found is not None:
            return (found,)
    raise CheckpointError(f"{path} has none of {', '.join(_WEIGHT_FILES)}")


def config_of_sizes(architecture: str, sizes: dict[str, int | None], max_length: int) -> PreTrainedConfig:
    """The configuration of a random model; CheckpointError names the sizes that are missing."""
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    missing = [name for name in needed if sizes[name] is None]
    if missing:
        raise CheckpointError(f"a decoder without a path needs its sizes; missing: {', '.join(missing)}")
    given = {name: size for name, size in sizes.items() if size is not None}
    given.setdefault("num_key_value_heads", given["num_attention_heads"])
    given.setdefault("intermediate_size", 4 * given["hidden_size"])
    return AutoConfig.for_model(
        architecture, **given, max_position_embeddings=max_length, tie_word_embeddings=True, use_cache=True
    )


def meaning(config: PreTrainedConfig) -> dict:
    """What the weights mean, without where they came from and what they are stored as."""
    about = ("_name_or_path", "architectures", "dtype", "transformers_version", "quantization_config")
    return {key: value for key, value in config.to_dict().items() if key not in about}


def read_tokenizer(path: str):
    """The tokenizer of a folder or hub name; CheckpointError where it cannot be read or needs code of its own."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        # Where the files are missing, transformers may make up a tokenizer that knows no word.
        works = tokenizer.decode(tokenizer("a").input_ids, skip_special_tokens=True).strip() == "a"
    except (OSError, ValueError) as error:
        unread = CheckpointError(f"cannot load a tokenizer from {path!r}: {error}")
        raise _own_code(path, "tokenizer_config.json", error) or unread from error
    if not works:
        raise CheckpointError(f"cannot load a tokenizer from {path!r}: it lacks tokenizer.json; copy it there")
    return tokenizer


def _check_sizes(path: str, config: PreTrainedConfig, sizes: dict[str, int | None]) -> None:
    wrong = [f"{k} is {getattr(config, k)}, not {v}" for k, v in sizes.items() if v not in (None, getattr(config, k))]
    if wrong:
        raise CheckpointError(
            f"{path} is not the model the recipe describes: {'; '.join(wrong)}. "
            "Set these arguments of the decoder to null, or give another decoder.path"
        )


def _unreachable(path: str) -> CheckpointError:
    return CheckpointError(
        f"cannot load the decoder from {path!r}: it is neither a local folder with config.json and weights nor a "
        f"hub name that can be reached from here. Download it first and give the folder: decoder.path=/folder"
    )


def _own_code(path: str, name: str, error: Exception) -> CheckpointError | None:
    """What to raise where transformers has refused to run code that comes with a model; None for any other ``error``.

    Its own words advise to switch the refusal off.
    """
    if "trust_remote_code" not in str(error):
        return None
    file = _local_file(path, name)
    named = f": {json.loads(file.read_text(encoding='utf-8')).get('auto_map')}" if file else ""
    return CheckpointError(
        f"{path!r} is refused: its {name} asks for code of its own (auto_map{named}), and no code that comes with a "
        "model is ever run. Take a model that transformers knows by itself: decoder.path=/folder"
    )


def _local_file(path: str, name: str) -> Path | None:
    if Path(path).is_dir():
        return Path(path, name) if Path(path, name).is_file() else None
    found = try_to_load_from_cache(path, name)
    return Path(found) if isinstance(found, str) else None
