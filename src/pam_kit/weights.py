"""Reading weights from files, safely, telling files apart, and knowing when weights are not wanted."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from hashlib import file_digest
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file
from torch import Tensor

from pam_kit.errors import CheckpointError

_WANTED = ContextVar("pretrained_weights_wanted", default=True)


def pretrained_weights_wanted() -> bool:
    """Whether a component should read the pretrained weights its arguments name.

    False inside ``without_pretrained_weights`` and on the meta device.
    """
    return _WANTED.get() and torch.get_default_device().type != "meta"


@contextmanager
def without_pretrained_weights() -> Iterator[None]:
    """Build components whose weights a checkpoint is about to replace, or whose sizes alone are asked for."""
    token = _WANTED.set(False)
    try:
        yield
    finally:
        _WANTED.reset(token)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pt/.pth/.bin file read with weights_only=True."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no weight file at {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own words here explain how to load the file unsafely.
        unsafe = isinstance(error, UnpicklingError)
        reason = "it holds more than tensors" if unsafe else f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"{path} is not a readable weight file ({reason}). "
            "Only safetensors and plain tensor files are read; nothing is unpickled"
        ) from error


def sha256(path: str | Path) -> str:
    """SHA-256 of a file in hexadecimal, read piece by piece; once a process for a file that stays as it is."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no weight file at {path}")
    status = path.stat()
    return _sha256(path.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(path: Path, _size: int, _modified: int) -> str:
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()
