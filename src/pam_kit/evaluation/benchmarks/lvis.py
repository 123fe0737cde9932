"""Naming regions: 1,000 pictures each of the LVIS and PACO validation sets. Torch-free.

Published by Osprey (masks) and, for the same pictures, by Draw-and-Understand (boxes and points).
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pam_kit.evaluation.benchmarks.contract import Benchmark, Headline, Reading, Variant
from pam_kit.evaluation.benchmarks.fields import load_list, need, need_size, need_text
from pam_kit.evaluation.benchmarks.marked import PAGE as MARKED_PAGE
from pam_kit.evaluation.benchmarks.marked import MarkedRegion, marked_regions
from pam_kit.evaluation.benchmarks.media import find_media
from pam_kit.evaluation.benchmarks.prompting import mask_prompt
from pam_kit.evaluation.records import RegionRecord

OSPREY_PAGE = "https://huggingface.co/datasets/sunshine-lwt/Osprey-ValData"
COCO_PLACES = ("train2017", "val2017", "images/train2017", "images/val2017", "images", "")
COCO_PAGE = "https://cocodataset.org/#download"


class _Naming(Benchmark):
    """What LVIS and PACO have in common."""

    media = COCO_PLACES
    media_page = f"{COCO_PAGE} (train2017 and val2017: LVIS and PACO took from both)"
    task = "recognize"
    protocols = ("osprey", "videorefer", "draw_and_understand")

    def _regions(self, reading: Reading) -> Iterator[tuple[str, Callable[[], RegionRecord | None]]]:
        if reading.variant.name == "osprey":
            yield from self._osprey(reading, reading.files(reading.variant.files[0])[0])
            return
        for region in marked_regions(reading.files(reading.variant.files[0])[0]):
            yield region.source, partial(self._marked, reading, region)

    def _osprey(self, reading: Reading, path: Path) -> Iterator[tuple[str, Callable[[], RegionRecord]]]:
        for index, picture in enumerate(load_list(path, "pictures with categories and annotations"), 1):
            labels = picture.get("categories") if isinstance(picture, dict) else None
            count = len(labels) if isinstance(labels, list) and labels else 1
            for number in range(count):
                source = f"{path.name}: picture {index}, region {number + 1}"
                yield source, partial(self._masked, reading, source, picture, number)

    def _masked(self, reading: Reading, source: str, picture: Any, number: int) -> RegionRecord:
        size = need_size(picture, source)
        name = need_text(picture, "file_name", source)
        label = need(need(picture, "categories", list, source), number, str, source).strip()
        annotation = need(need(picture, "annotations", list, source), number, dict, source)
        prompt = mask_prompt(need(annotation, "segmentation", object, source), size, reading.prompt_type, source)
        image = find_media(reading.root, self.media, name, source)
        return self._record(f"{Path(name).stem}:{number + 1}", [label], image=image, prompt=prompt, group=image)

    def _marked(self, reading: Reading, region: MarkedRegion) -> RegionRecord:
        image, prompt = region.place(reading.root, self.media)
        id = f"{Path(image).stem}:{region.question_id}:{region.number}"
        return self._record(id, [region.own_answer()], image=image, prompt=prompt, group=image)


def _variants(name: str, file: str, expected: int) -> tuple[Variant, ...]:
    return (
        Variant(
            "osprey",
            (file,),
            "1,000 pictures with the label and mask of each region; the box is the mask's",
            OSPREY_PAGE,
            ("box", "mask"),
            expected,
        ),
        Variant("draw_and_understand", (f"{name}_box.json",), "a question a picture, with a box a region", MARKED_PAGE),
        Variant(
            "draw_and_understand_points",
            (f"{name}_point.json",),
            "a question a picture, with a point a region",
            MARKED_PAGE,
            ("points",),
        ),
    )


def _headlines(name: str) -> tuple[Headline, ...]:
    return (
        Headline("semantic_similarity", "osprey", 1, f"{name} semantic similarity"),
        Headline("semantic_iou", "osprey", 1, f"{name} semantic IoU"),
    )


_PROMPT = "PAM does not say whether it pointed with boxes, points or masks; boxes are the default here"
_ORDER = "each region is asked about alone; Draw-and-Understand asks about up to ten of a picture at once"


class Lvis(_Naming):
    """Objects of LVIS; the paper's Table 1."""

    name = "lvis"
    title = "LVIS, 1,000 validation pictures"
    variants = _variants("LVIS", "lvis_val_1k_category.json", 4004)
    headlines = _headlines("LVIS")
    decisions = (_PROMPT, _ORDER)


class Paco(_Naming):
    """Objects and their parts, "object:part"; the paper's Table 1."""

    name = "paco"
    title = "PACO, 1,000 validation pictures"
    variants = _variants("PACO", "paco_val_1k_category.json", 4263)
    headlines = _headlines("PACO")
    decisions = (
        _PROMPT,
        _ORDER,
        "osprey's cleaning keeps only what follows a colon, so that the answer 'cup:handle' counts as 'handle'; "
        "videorefer's keeps both words. How PAM wrote parts is not published",
    )
