"""Backgrounds of the micro dataset: drawn ones, and crops of photographs that ship inside two Python packages."""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from pam_kit.errors import MissingPackageError

Backgrounds = Literal["procedural", "photo", "mixed"]

_SCIKIT_IMAGE_PHOTOS = (
    "astronaut.png",
    "coffee.png",
    "chelsea.png",
    "rocket.jpg",
    "brick.png",
    "grass.png",
    "gravel.png",
)
_SCIKIT_LEARN_PHOTOS = ("china.jpg", "flower.jpg")
# Photographs lose this share of their contrast, so that objects stand out.
_PHOTO_MUTING = 0.3


def make_background(rng: np.random.Generator, side: int, backgrounds: Backgrounds) -> np.ndarray:
    """A background of (3, side, side) float32 in [0, 255]; "mixed" takes a photograph every other time on average."""
    if backgrounds == "photo" or (backgrounds == "mixed" and rng.random() < 0.5):
        return _photo_crop(rng, side)
    style = _STYLES[int(rng.integers(len(_STYLES)))]
    canvas = style(rng, side)
    canvas += rng.standard_normal((side, side), dtype=np.float32) * rng.uniform(1, 7)
    return np.clip(canvas, 0, 255, dtype=np.float32)


def photo_paths() -> list[Path]:
    """Where the photographs lie; raises MissingPackageError with the pip line where a package is missing."""
    paths = []
    for package, folder, names in (
        ("skimage", "data", _SCIKIT_IMAGE_PHOTOS),
        ("sklearn", "datasets/images", _SCIKIT_LEARN_PHOTOS),
    ):
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise MissingPackageError(
                f"photo backgrounds need the package {package}, which is not installed; "
                "run: pip install 'pam-kit[photos]' (or take backgrounds=procedural)"
            )
        paths += [Path(spec.origin).parent / folder / name for name in names]
    return paths


@lru_cache(maxsize=1)
def _photos() -> tuple[Image.Image, ...]:
    return tuple(Image.open(path).convert("RGB") for path in photo_paths())


def _photo_crop(rng: np.random.Generator, side: int) -> np.ndarray:
    photo = _photos()[int(rng.integers(len(_photos())))]
    extent = rng.uniform(0.3, 1.0) * min(photo.size)
    left, top = (rng.uniform(0, length - extent) for length in photo.size)
    box = (left, top, left + extent, top + extent)
    crop = photo.resize((side, side), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    pixels = np.asarray(crop, dtype=np.float32).transpose(2, 0, 1)
    return pixels + _PHOTO_MUTING * (128 - pixels)


def _muted(rng: np.random.Generator, count: int) -> np.ndarray:
    """``count`` greyish colours of middle brightness, (count, 3) float32, close enough to belong to one surface."""
    grey = rng.uniform(95, 175) + rng.uniform(-28, 28, (count, 1))
    tint = rng.uniform(-22, 22, (1, 3)) + rng.uniform(-8, 8, (count, 3))
    return (grey + tint).astype(np.float32)


def _blend(share: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Mix two colours by ``share`` (side, side) in [0, 1] -> (3, side, side) float32."""
    return colours[0][:, None, None] + share.astype(np.float32) * (colours[1] - colours[0])[:, None, None]


def _ramp(rng: np.random.Generator, side: int) -> np.ndarray:
    """Coordinates along a random direction, about -0.5 to 0.5 over the picture."""
    angle = rng.uniform(0, np.pi)
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    return np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]


def _cloud(rng: np.random.Generator, side: int, cells: int) -> np.ndarray:
    """Smooth noise in [0, 1] with ``cells`` x ``cells`` humps."""
    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.clip(np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)), 0, 1)


def _gradient(rng: np.random.Generator, side: int) -> np.ndarray:
    return _blend(np.clip(_ramp(rng, side) + 0.5, 0, 1), _muted(rng, 2))


def _noise(rng: np.random.Generator, side: int) -> np.ndarray:
    share = 0.6 * _cloud(rng, side, int(rng.integers(3, 7))) + 0.4 * _cloud(rng, side, int(rng.integers(12, 28)))
    return _blend(share, _muted(rng, 2))


def _stripes(rng: np.random.Generator, side: int) -> np.ndarray:
    wave = np.sin(2 * np.pi * rng.uniform(3, 8) * _ramp(rng, side) + rng.uniform(0, 2 * np.pi))
    return _blend(np.clip(0.5 + rng.uniform(0.6, 2.5) * wave, 0, 1), _muted(rng, 2))


def _blobs(rng: np.random.Generator, side: int) -> np.ndarray:
    steep = np.clip((_cloud(rng, side, int(rng.integers(4, 9))) - 0.5) * 8 + 0.5, 0, 1)
    return _blend(steep, _muted(rng, 2))


_STYLES = (_gradient, _noise, _stripes, _blobs)
