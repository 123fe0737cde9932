"""The folder of a released PAM: its config.json, its tensors one by one, its tokenizer. Nothing in it is unpickled."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pam_kit.errors import CheckpointError
from pam_kit.weights import read_weights

CONFIG, GENERATION_CONFIG, MODEL_TYPE = "config.json", "generation_config.json", "llava_qwen"
# Whole, or in parts with an index that says which tensor is where; the safe format first.
_WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_TOKENIZER_FILES = ("tokenizer*", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")


class ReleasedFolder:
    """A LLaVA-style Hugging Face folder. Its tensors are read when they are asked for.

    Attributes:
        path: where it is.
        config: its config.json.

    Args:
        path: a folder with config.json and weights.

    Raises:
        CheckpointError: a file is missing, unreadable or of another kind of model.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = _config(self.path)
        self._shards: dict[str, _Shard] = {}
        for file in _weight_files(self.path):
            shard = _SafeShard(file) if file.suffix == ".safetensors" else _PlainShard(file)
            self._shards.update(dict.fromkeys(shard.names(), shard))
        absent = [name for name in _promised(self.path) if name not in self._shards]
        if absent:
            raise CheckpointError(f"{self.path}: the index promises what no file holds: {', '.join(absent)}")

    def names(self) -> list[str]:
        return list(self._shards)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shards[name].shape(name)

    def read(self, name: str, rows: int | None = None) -> Tensor:
        """The tensor as it is stored; of its first dimension only the first ``rows``, where given."""
        return self._shards[name].read(name, rows)

    def dtype(self, name: str) -> torch.dtype:
        return self.read(name, 0).dtype

    def tokenizer_files(self) -> list[Path]:
        return tokenizer_files(self.path)


class _SafeShard:
    def __init__(self, path: Path):
        try:
            self._file = safe_open(path, "pt")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} is not a readable weight file: {error}; download it again") from error

    def names(self) -> Iterable[str]:
        return self._file.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())

    def read(self, name: str, rows: int | None) -> Tensor:
        return self._file.get_tensor(name) if rows is None else self._file.get_slice(name)[:rows]


class _PlainShard:
    def __init__(self, path: Path):
        self._tensors = read_weights(path)

    def names(self) -> Iterable[str]:
        return self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def read(self, name: str, rows: int | None) -> Tensor:
        # Its own memory: a part of a tensor would be taken for a twin of the whole.
        return self._tensors[name][:rows].clone()


_Shard = _SafeShard | _PlainShard


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a tokenizer in a folder that may hold other things as well."""
    return sorted({file for pattern in _TOKENIZER_FILES for file in folder.glob(pattern) if file.is_file()})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds a table.

    Raises:
        CheckpointError: it is missing or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} does not hold a table of settings; download it again")
    return found


def _config(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        what = f"has no {CONFIG}" if folder.is_dir() else "is no folder"
        raise CheckpointError(
            f"{folder} {what}; give the folder of a released PAM, with {CONFIG}, weights and tokenizer: "
            "hf download Perceive-Anything/PAM-1.5B --local-dir PAM-1.5B"
        )
    config = read_json(folder / CONFIG)
    if config.get("model_type") != MODEL_TYPE:
        raise CheckpointError(
            f"{folder / CONFIG} is of a model of type {config.get('model_type')!r}; a released PAM is {MODEL_TYPE!r}"
        )
    return config


def _weight_files(folder: Path) -> list[Path]:
    for whole, index in _WEIGHTS:
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / index).is_file():
            names = sorted(set(_weight_map(folder / index).values()))
            absent = [name for name in names if not (folder / name).is_file()]
            if absent:
                raise CheckpointError(f"{folder} lacks {', '.join(absent)}, which {index} names; download them")
            return [folder / name for name in names]
    raise CheckpointError(f"{folder} has no weights: neither {' nor '.join(n for pair in _WEIGHTS for n in pair)}")


def _promised(folder: Path) -> Iterable[str]:
    """The tensors that an index names, where the weights come with one."""
    for whole, index in _WEIGHTS:
        if (folder / whole).is_file():
            return ()
        if (folder / index).is_file():
            return _weight_map(folder / index)
    return ()


def _weight_map(index: Path) -> dict[str, str]:
    found = read_json(index).get("weight_map")
    # A name with a folder in it could lead anywhere.
    if not isinstance(found, dict) or any(Path(str(file)).name != file for file in found.values()):
        raise CheckpointError(f"{index} has no weight_map from tensors to files beside it; download it again")
    return found
