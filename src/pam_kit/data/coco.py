"""COCO instances as regions: masks, category names in English and Chinese."""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pam_kit.contracts import RegionSample
from pam_kit.data.coco_names import COCO_ZH
from pam_kit.data.samples import load_sample, picture_folder
from pam_kit.data.schema import SampleRecord, parse_entry
from pam_kit.errors import PamKitError
from pam_kit.registry import register

_DOWNLOAD = "https://cocodataset.org/#download"


@register("dataset", "coco")
class CocoDataset:
    """Objects of COCO, or of a dataset in its format, with their masks and category names.

    Only pictures with at least one wanted object count. A region's ``recognize`` text is its category in English
    and, for the 80 COCO categories, in Chinese; its attributes are ``label``, ``category_id`` and ``area_share``, the
    annotated area over the picture's. Prompts are left to be drawn from the masks.

    Args:
        root: the folder with ``annotations/`` and one folder of pictures a split.
        split: the split's name, as in ``annotations/instances_SPLIT.json``.
        annotations: the annotation file; by default root/annotations/instances_SPLIT.json.
        images: the folder of pictures; by default root/SPLIT.
        min_area: objects that cover less than this share of their picture are left out.
        categories: English names of the categories to keep; by default all.
        crowd: whether groups of objects under one mask ("iscrowd") are kept.
    """

    def __init__(
        self,
        root: str,
        split: str = "train2017",
        annotations: str | None = None,
        images: str | None = None,
        min_area: float = 0.0,
        categories: list[str] | None = None,
        crowd: bool = False,
    ):
        self._file = Path(annotations) if annotations else Path(root) / "annotations" / f"instances_{split}.json"
        folder = Path(images) if images else Path(root) / split
        _check_files(self._file, folder)
        self._image_root = picture_folder(folder)
        content = _load(self._file)
        self._names = {int(category["id"]): str(category["name"]) for category in content["categories"]}
        kept = _category_ids(self._names, categories)
        wanted = self._wanted(content, kept, min_area, crowd)
        # One JSON text a picture takes a quarter of the memory of parsed annotations, in every worker.
        self._pictures = [
            json.dumps({"image": image, "annotations": wanted[image["id"]]}).encode()
            for image in content["images"]
            if image["id"] in wanted
        ]

    def __len__(self) -> int:
        return len(self._pictures)

    def record(self, index: int) -> SampleRecord:
        """Picture ``index`` and its annotations, without its pixels. Raises BrokenSample."""
        entry = json.loads(self._pictures[index])
        image, annotations = entry["image"], entry["annotations"]
        area = image["width"] * image["height"]
        line = {
            "image": image["file_name"],
            "width": image["width"],
            "height": image["height"],
            "regions": [self._region(annotation, area) for annotation in annotations],
        }
        return parse_entry(line, f"{self._file.name}:image {image['id']}")

    def __getitem__(self, index: int) -> RegionSample:
        return load_sample(self.record(index), self._image_root)

    def texts(self) -> Iterator[str]:
        """The category names of all objects, in order, as often as they occur."""
        for picture in self._pictures:
            for annotation in json.loads(picture)["annotations"]:
                yield from self._label(annotation).values()

    def _label(self, annotation: dict[str, Any]) -> dict[str, str]:
        name = self._names[annotation["category_id"]]
        return {"en": name, "zh": COCO_ZH[name]} if name in COCO_ZH else {"en": name}

    def _region(self, annotation: dict[str, Any], picture_area: int) -> dict[str, Any]:
        return {
            "id": str(annotation["id"]),
            "mask": annotation["segmentation"],
            "texts": {"recognize": self._label(annotation)},
            "attributes": {
                "label": self._names[annotation["category_id"]],
                "category_id": annotation["category_id"],
                "area_share": annotation["area"] / picture_area,
            },
        }

    def _wanted(self, content: dict[str, Any], kept: set[int], min_area: float, crowd: bool):
        """Image id -> its annotations that pass the filters."""
        areas = {image["id"]: image["width"] * image["height"] for image in content["images"]}
        wanted: dict[int, list[dict[str, Any]]] = {}
        for annotation in content["annotations"]:
            image, category = annotation["image_id"], annotation["category_id"]
            if image not in areas or category not in self._names:
                problem = f"annotation {annotation['id']} belongs to image {image} and category {category}"
                raise PamKitError(f"{self._file}: {problem}, one of which the file does not list")
            crowded = bool(annotation.get("iscrowd", 0)) and not crowd
            if category in kept and not crowded and annotation["area"] >= min_area * areas[image]:
                wanted.setdefault(image, []).append(annotation)
        return wanted


def _check_files(annotations: Path, images: Path) -> None:
    missing = [str(path) for path in (annotations, images) if not path.exists()]
    if missing:
        raise PamKitError(
            f"COCO is not complete: {' and '.join(missing)} not found. Expected the annotation file {annotations} and "
            f"the pictures in the folder {images}; both come from {_DOWNLOAD} (unpack annotations and pictures into "
            "the same root)"
        )


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise PamKitError(f"{path} is not a complete JSON file: {error}; download it again") from error
    expected = {
        "images": ("id", "file_name", "width", "height"),
        "annotations": ("id", "image_id", "category_id", "segmentation", "area"),
        "categories": ("id", "name"),
    }
    for part, keys in expected.items():
        entries = content.get(part) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise PamKitError(f"{path} has no list {part!r}; expected a COCO instances file")
        for entry in entries:
            if absent := [key for key in keys if key not in entry]:
                raise PamKitError(f"{path}: an entry of {part} has no {absent[0]!r}; expected a COCO instances file")
    return content


def _category_ids(names: dict[int, str], wanted: list[str] | None) -> set[int]:
    if wanted is None:
        return set(names)
    unknown = [name for name in wanted if name not in names.values()]
    if unknown:
        near = difflib.get_close_matches(unknown[0], names.values(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; the file has {', '.join(sorted(names.values()))}"
        raise PamKitError(f"unknown category {unknown[0]!r}{hint}")
    return {number for number, name in names.items() if name in wanted}
