"""A small annotated sample of real photographs that needs no download: the pictures ship inside two Python packages.

``photos.jsonl`` beside this file has one picture a line::

    {"image": "skimage/coffee.png", "regions": [
        {"id": "coffee-spoon", "polygons": [[x1, y1, x2, y2, ...]],
         "texts": {"recognize": {"en": "spoon", "zh": "勺子"}, ...},
         "attributes": {"label": "spoon", "colour": "silver"}}]}

The outlines were drawn by hand. They follow what is visible of an object; a region's mask is the union of its
polygons, whose corners are in pixels of the picture.
"""

import json
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from pam_kit.contracts import Region, RegionSample
from pam_kit.errors import BrokenSample, MissingPackageError
from pam_kit.registry import register

# First part of an "image" entry, which is also the package's import name -> its name on PyPI, its folder of pictures.
_PACKAGES = {"skimage": ("scikit-image", "data"), "sklearn": ("scikit-learn", "datasets/images")}


@register("dataset", "photos")
class PhotosDataset:
    """A few dozen hand-annotated regions on the photographs inside scikit-image and scikit-learn.

    Every region has a mask, all four kinds of text in English and Chinese, the attribute ``label`` and, where it has
    one plain colour, ``colour``. Prompts are left to be drawn from the masks.

    Raises:
        MissingPackageError: one of the two packages is not installed.
    """

    def __init__(self):
        self._folders = {package: _picture_folder(package) for package in _PACKAGES}
        lines = files("pam_kit.data").joinpath("photos.jsonl").read_text(encoding="utf-8").splitlines()
        self._entries: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> RegionSample:
        """The picture as (H, W, 3) uint8 RGB, with its regions. BrokenSample where the package lacks the picture."""
        entry = self._entries[index]
        package, _, name = entry["image"].partition("/")
        image = _read(self._folders[package] / name, entry["image"])
        height, width = image.shape[:2]
        regions = [
            Region(
                entry_region["id"],
                mask=_rasterize(entry_region["polygons"], width, height),
                texts=entry_region["texts"],
                attributes=entry_region["attributes"],
            )
            for entry_region in entry["regions"]
        ]
        return RegionSample(f"photos:{entry['image']}", image, regions)

    def texts(self) -> Iterator[str]:
        """All texts of all regions, in every task and language."""
        for entry in self._entries:
            for region in entry["regions"]:
                for by_language in region["texts"].values():
                    yield from by_language.values()


def _picture_folder(package: str) -> Path:
    """Where an installed package keeps its pictures. The package is found, not imported: scikit-learn takes seconds."""
    name, folder = _PACKAGES[package]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(
            f"dataset 'photos' reads pictures that ship inside {name}, which is not installed; "
            "install it with: pip install 'pam-kit[photos]'"
        )
    return Path(spec.submodule_search_locations[0]) / folder


def _read(path: Path, source: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except OSError as error:
        name = _PACKAGES[source.partition("/")[0]][0]
        raise BrokenSample(f"photos:{source}", f"the installed {name} has no readable {path}: {error}") from error


def _rasterize(polygons: list[list[float]], width: int, height: int) -> np.ndarray:
    """Polygons -> (H, W) boolean mask of their union."""
    parts = coco_mask.frPyObjects(polygons, height, width)
    return coco_mask.decode(coco_mask.merge(parts)).astype(bool)
