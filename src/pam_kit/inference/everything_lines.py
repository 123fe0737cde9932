"""Regions of pictures as JSON lines, and all of them as one COCO file. Torch-free.

Each region is a line; behind those of a picture stands a line of the picture itself, which says how many there are, so
that a picture without regions is told of too, and one whose lines were cut off is known. A picture that failed
is one line that says why.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pam_kit.errors import PamKitError
from pam_kit.inference.resuming import whole_lines

# What a region is called where no list of labels says it.
REGION = "region"


@dataclass(frozen=True)
class PictureLines:
    """What is known of one picture: ``facts`` about it, among them ``broken`` where it failed."""

    name: str
    facts: dict[str, Any]
    regions: tuple[dict[str, Any], ...] = ()

    @property
    def broken(self) -> str | None:
        """Why it could not be read, or looked through."""
        return self.facts.get("broken")

    def lines(self) -> list[str]:
        """Its regions, each with the picture and a number counted from 1; then the picture."""
        head = {"image": self.name}
        told = [{**head, "region": number} | region for number, region in enumerate(self.regions, 1)]
        own = {} if self.broken else {"regions": len(self.regions)}
        return [json.dumps(facts, ensure_ascii=False) for facts in (*told, {**head, **self.facts, **own})]


def read_pictures(path: Path) -> tuple[list[PictureLines], list[str]]:
    """The pictures of a file to which a run may still write, and notes on what was cut off at its end.

    Raises PamKitError that names the line which is none of such a file.
    """
    lines, cut = whole_lines(path)
    found: list[PictureLines] = []
    open_regions: list[dict[str, Any]] = []
    for place, line in lines:
        facts = _object(place, line)
        if "region" in facts:
            if open_regions and open_regions[0]["image"] != facts["image"]:
                open_regions = []  # those of a picture whose end was cut off, behind which a later run went on
            open_regions.append(facts)
            continue
        regions = [one for one in open_regions if one["image"] == facts["image"]]
        open_regions = []
        if "broken" not in facts and facts.get("regions") != len(regions):
            raise PamKitError(f"{place}: the picture has {facts.get('regions')} regions, but {len(regions)} lines")
        own = {name: value for name, value in facts.items() if name not in ("image", "regions")}
        bare = [{name: value for name, value in one.items() if name not in ("image", "region")} for one in regions]
        found.append(PictureLines(facts["image"], own, tuple(bare)))
    notes = [f"{path.name}: {cut}"] if cut else []
    if open_regions:
        notes.append(f"{path.name}: {open_regions[0]['image']} was not finished and is made anew")
    return found, notes


def latest(pictures: Iterable[PictureLines]) -> dict[str, PictureLines]:
    """By name; one that could be read counts before one that could not."""
    found: dict[str, PictureLines] = {}
    for picture in pictures:
        if picture.name not in found or found[picture.name].broken:
            found[picture.name] = picture
    return found


def as_coco(pictures: Sequence[PictureLines], categories: Mapping[str, int] | None, info: dict[str, Any]) -> dict:
    """All pictures as COCO's instances, which pycocotools loads; numbers count from 1 in the order given.

    Args:
        categories: name -> number, where labels were chosen from a list; None: all regions are of one category, and
            have a ``caption``.
        info: stands ahead.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, picture in enumerate((one for one in pictures if not one.broken), 1):
        images.append({"id": number, "file_name": picture.name, **picture.facts})
        for region in picture.regions:
            own = _category(region, categories) | _caption(region)
            head = {"id": len(annotations) + 1, "image_id": number, "iscrowd": 0}
            annotations.append({**head, **own, **region})
    names = {REGION: 1} if categories is None else categories
    return {
        "info": info,
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name, "supercategory": ""} for name, number in names.items()],
        "broken": [{"file_name": one.name, "reason": one.broken} for one in pictures if one.broken],
    }


def _category(region: dict[str, Any], categories: Mapping[str, int] | None) -> dict[str, int]:
    return {"category_id": 1 if categories is None else categories[region["labels"][0]["name"]]}


def _caption(region: dict[str, Any]) -> dict[str, str]:
    """What is said of it in one sentence: the caption, else what else was asked; in the first language."""
    texts = region.get("texts", {})
    for said in (texts.get("caption"), *texts.values()):
        if said:
            return {"caption": next(iter(said.values()))["text"]}
    return {}


def _object(place: str, line: str) -> dict[str, Any]:
    try:
        facts = json.loads(line)
    except json.JSONDecodeError as error:
        raise PamKitError(f"{place}: not JSON: {error}") from None
    if not isinstance(facts, dict) or not isinstance(facts.get("image"), str):
        raise PamKitError(f"{place}: expected a region or a picture, an object with an image")
    return facts
