"""The formula by which golden files define weights and inputs, and the digests that check it.

A tensor is drawn by numpy's legacy Mersenne Twister, whose stream is frozen, seeded with the CRC-32 of its name plus
the file's seed; standard normal in float64, row-major, then scaled by its name and rounded to float32.
"""

import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

# Embeddings that stand beside features of unit size; they are drawn with unit size too.
_UNIT = (
    "sem_tokens.",
    "mask_tokens.",
    "iou_token.",
    "obj_score_token.",
    "point_embeddings.",
    "not_a_point_embed.",
    "no_mask_embed.",
)
_WORDS = ("embed_tokens.weight", "lm_head.weight")


def formula_weight(key: str, shape: Sequence[int], seed: int) -> Tensor:
    """The float32 value of an entry of a state dict; ``key`` is its name there."""
    scale, centre = _scale_and_centre(key, shape)
    return torch.from_numpy((centre + scale * _drawn(key, shape, seed)).astype(np.float32))


def formula_input(name: str, shape: Sequence[int], seed: int) -> Tensor:
    """The float32 input of that name; standard normal."""
    return torch.from_numpy(_drawn(f"input:{name}", shape, seed).astype(np.float32))


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, over the names in order, each followed by the bytes of its float32 values."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(key.encode("utf-8"))
        digest.update(_bytes(weights[key]))
    return digest.hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256, in hexadecimal, of a tensor's float32 values."""
    return hashlib.sha256(_bytes(tensor)).hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return np.ascontiguousarray(tensor.numpy().astype(np.float32)).tobytes()


def _drawn(name: str, shape: Sequence[int], seed: int) -> np.ndarray:
    stream = np.random.RandomState((zlib.crc32(name.encode("utf-8")) + seed) % 2**32)
    return stream.standard_normal(size=tuple(shape))


def _scale_and_centre(key: str, shape: Sequence[int]) -> tuple[float, float]:
    """The first rule that holds for the name or the shape."""
    last = key.rpartition(".")[2]
    if last == "positional_encoding_gaussian_matrix":
        return 1.0, 0.0
    if key.endswith(_WORDS):
        return 0.25, 0.0
    if any(part in key for part in _UNIT):
        return 1.0, 0.0
    if last == "bias":
        return 0.02, 0.0
    if len(shape) == 1:
        return 0.1, 1.0 if last == "weight" else 0.0
    return 1 / math.sqrt(math.prod(shape[1:])), 0.0
