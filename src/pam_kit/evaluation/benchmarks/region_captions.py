"""Short captions of regions: Visual Genome and RefCOCOg. Torch-free."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pam_kit.errors import BrokenSample
from pam_kit.evaluation.benchmarks.contract import Benchmark, Headline, Reading, Variant
from pam_kit.evaluation.benchmarks.fields import load_json, load_list, need, need_number, need_size, need_text, part_of
from pam_kit.evaluation.benchmarks.marked import PAGE as MARKED_PAGE
from pam_kit.evaluation.benchmarks.marked import MarkedRegion, marked_regions
from pam_kit.evaluation.benchmarks.media import find_media
from pam_kit.evaluation.benchmarks.prompting import box_prompt, mask_prompt
from pam_kit.evaluation.records import RegionRecord

VIDEOREFER_PAGE = "https://huggingface.co/datasets/CircleRadon/referring_evaluation"
_COCO_2014 = "COCO_train2014_"

Made = Iterator[tuple[str, Callable[[], RegionRecord | None]]]


class _Captions(Benchmark):
    task = "caption"
    protocols = ("captions_ptb",)

    def _coco(self, reading: Reading, path: Path) -> Made:
        """Files of COCO's layout whose captions stand with the annotation or with its picture."""
        content = part_of(load_json(path), dict, path, "an object with images and annotations")
        pictures = {}
        for picture in part_of(content.get("images"), list, path, "a list images"):
            if isinstance(picture, dict) and "id" in picture:
                pictures[picture["id"]] = picture
        for index, annotation in enumerate(part_of(content.get("annotations"), list, path, "a list annotations"), 1):
            number = annotation.get("id", index) if isinstance(annotation, dict) else index
            source = f"{path.name}: annotation {number}"
            yield source, partial(self._annotated, reading, source, annotation, pictures)

    def _annotated(self, reading: Reading, source: str, annotation: Any, pictures: dict[Any, Any]) -> RegionRecord:
        image_id = need(annotation, "image_id", object, source)
        if image_id not in pictures:
            raise BrokenSample(source, f"belongs to the picture {image_id}, which the file does not list")
        picture = pictures[image_id]
        caption = need_text(annotation if "caption" in annotation else picture, "caption", source)
        size = need_size(picture, source)
        if reading.prompt_type == "mask":
            prompt = mask_prompt(need(annotation, "segmentation", object, source), size, "mask", source)
        else:
            prompt = box_prompt(annotation.get("bbox"), "xywh", size, source)
        image = self._picture(reading, need_text(picture, "file_name", source), source)
        id = str(need_number(annotation, "id", source))
        return self._record(id, [caption], image=image, prompt=prompt, group=image)

    def _picture(self, reading: Reading, name: str, source: str) -> str:
        """Also without the prefix of 2014, which the pictures of 2017 have lost."""
        try:
            return find_media(reading.root, self.media, name, source)
        except BrokenSample:
            if _COCO_2014 not in name:
                raise
            return find_media(reading.root, self.media, name.replace(_COCO_2014, ""), source)


class VisualGenome(_Captions):
    """Regions of Visual Genome; the paper's Table 2."""

    name = "vg"
    title = "Visual Genome, region captions"
    variants = (
        Variant(
            "glamm",
            ("test_caption.json",),
            "the test split of GRiT in COCO's layout, as GLaMM uses it; one caption a region",
            "https://github.com/mbzuai-oryx/groundingLMM (evaluation: region captioning)",
        ),
        Variant(
            "videorefer", ("vg_val_5000.json",), "5,000 regions in VideoRefer's layout", VIDEOREFER_PAGE, expected=5000
        ),
    )
    media = ("VG_100K", "VG_100K_2", "images/VG_100K", "images/VG_100K_2", "images", "")
    media_page = "https://homes.cs.washington.edu/~ranjay/visualgenome/api.html (VG_100K and VG_100K_2)"
    headlines = (
        Headline("METEOR", "captions_ptb", 2, "VG METEOR"),
        Headline("CIDEr", "captions_ptb", 2, "VG CIDEr"),
    )
    decisions = ("PAM says 'validation split of VG'; there is no such official file, and which one it used is unknown",)

    def _regions(self, reading: Reading) -> Made:
        path = reading.files(reading.variant.files[0])[0]
        if reading.variant.name == "glamm":
            yield from self._coco(reading, path)
            return
        for index, entry in enumerate(load_list(path, "regions with image, caption and boxes"), 1):
            source = f"{path.name}: region {index}"
            yield source, partial(self._listed, reading, source, index, entry)

    def _listed(self, reading: Reading, source: str, index: int, entry: Any) -> RegionRecord:
        name = need(need(entry, "image", list, source), 0, str, source)
        boxes = need(entry, "boxes", list, source)
        if len(boxes) != 1:
            raise BrokenSample(source, f"expected one box, not {len(boxes)}")
        prompt = box_prompt(boxes[0], "xywh", need_size(entry, source), source)
        image = self._picture(reading, name, source)
        caption = need_text(entry, "caption", source)
        return self._record(str(index), [caption], image=image, prompt=prompt, group=image)


class RefCocoG(_Captions):
    """Referring expressions of the UMD validation split, one item an expression; the paper's Table 2."""

    name = "refcocog"
    title = "RefCOCOg, validation split"
    variants = (
        Variant(
            "osprey",
            ("finetune_refcocog_val_with_mask.json",),
            "COCO's layout, an expression with each picture, a box and a mask with each annotation",
            "https://huggingface.co/datasets/sunshine-lwt/Osprey-ValData",
            ("box", "mask"),
            4896,
        ),
        Variant(
            "draw_and_understand",
            ("RefCOCOg_brief_caption.json",),
            "a question a picture, with a box",
            MARKED_PAGE,
            expected=4896,
        ),
        Variant(
            "videorefer",
            ("refcocog_val.json",),
            "a picture an entry, with expressions and masks",
            VIDEOREFER_PAGE,
            ("box", "mask"),
            4896,
        ),
    )
    media = ("train2014", "images/train2014", "train2017", "val2017", "images", "")
    media_page = "https://cocodataset.org/#download (train2014)"
    headlines = (
        Headline("METEOR", "captions_ptb", 2, "RefCOCOg METEOR"),
        Headline("CIDEr", "captions_ptb", 2, "RefCOCOg CIDEr"),
    )
    decisions = ("one item an expression; grouping all expressions of a region gives other values",)

    def _regions(self, reading: Reading) -> Made:
        path = reading.files(reading.variant.files[0])[0]
        if reading.variant.name == "osprey":
            yield from self._coco(reading, path)
        elif reading.variant.name == "draw_and_understand":
            for order, region in enumerate(marked_regions(path), 1):
                yield region.source, partial(self._marked, reading, order, region)
        else:
            for index, entry in enumerate(load_list(path, "pictures with cat and masks"), 1):
                expressions = entry.get("cat") if isinstance(entry, dict) else None
                for number in range(len(expressions) if isinstance(expressions, list) and expressions else 1):
                    source = f"{path.name}: picture {index}, region {number + 1}"
                    yield source, partial(self._listed, reading, source, f"{index}:{number + 1}", entry, number)

    def _marked(self, reading: Reading, order: int, region: MarkedRegion) -> RegionRecord:
        image, prompt = region.place(reading.root, self.media)
        return self._record(str(order), [region.own_answer()], image=image, prompt=prompt, group=image)

    def _listed(self, reading: Reading, source: str, id: str, entry: Any, number: int) -> RegionRecord:
        caption = need(need(entry, "cat", list, source), number, str, source).strip()
        mask = need(need(entry, "masks", list, source), number, object, source)
        prompt = mask_prompt(mask, need_size(entry, source), reading.prompt_type, source)
        image = self._picture(reading, need_text(entry, "image", source), source)
        return self._record(id, [caption], image=image, prompt=prompt, group=image)
