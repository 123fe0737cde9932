"""Samples of the benchmarks of regions in pictures: LVIS, PACO, Visual Genome, RefCOCOg, Ref-L4."""

from pathlib import Path
from typing import Any

from pam_kit.data.masks import encode_rle
from pam_kit.errors import MissingPackageError
from pam_kit.evaluation.benchmarks.samples.scenes import SIDE, Thing, scenes, write_json, write_lines, write_picture
from pam_kit.geometry import innermost_point


def write_lvis(root: Path) -> None:
    """Osprey's file with masks, and Draw-and-Understand's with boxes and points; pictures of both COCO folders."""
    _write_naming(root, "lvis_val_1k_category.json", "LVIS", lambda thing, _: thing.label.replace(" ", "_"))


def write_paco(root: Path) -> None:
    """As of LVIS; every second label is a part, "object:part"."""
    _write_naming(root, "paco_val_1k_category.json", "PACO", lambda thing, number: thing.label + ":edge" * (number % 2))


def _write_naming(root: Path, file: str, short: str, label) -> None:
    masked, questions = [], {"box": [], "point": []}  # type: ignore[var-annotated]
    for index, scene in enumerate(scenes()):
        name = f"{index + 1:012d}.jpg"
        write_picture(root / ("train2017" if index % 2 else "val2017") / name, scene.image)
        labels = [label(thing, number) for number, thing in enumerate(scene.things)]
        annotations = [{"segmentation": encode_rle(thing.mask)} for thing in scene.things]
        masked.append(
            {"file_name": name, "height": SIDE, "width": SIDE, "categories": labels, "annotations": annotations}
        )
        answers = "\n".join(f"Region {number}: {text}" for number, text in enumerate(labels, 1))
        for kind, key, marks in (
            ("box", "bbox", [thing.xywh for thing in scene.things]),
            ("point", "points", [list(innermost_point(thing.mask)) for thing in scene.things]),
        ):
            questions[kind].append(
                {
                    "image_name": name,
                    "question": "Which labels do the marked regions have?",
                    "question_id": index + 1,
                    "dataset_name": f"{short}_{kind}",
                    "gt_answers": answers,
                    key: marks,
                }
            )
    write_json(root / file, masked)
    for kind, entries in questions.items():
        write_json(root / f"{short}_{kind}.json", entries)


def write_vg(root: Path) -> None:
    """GLaMM's file in COCO's layout, a picture entry a region, and VideoRefer's list."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    listed: list[dict[str, Any]] = []
    for number, (name, thing) in enumerate(_named_things("VG_100K", "{}.jpg", root), 1):
        images.append({"id": number, "file_name": name, "height": SIDE, "width": SIDE})
        annotations.append({"id": number, "image_id": number, "bbox": thing.xywh, "caption": thing.caption})
        box = [int(v) for v in thing.xywh]
        listed.append(
            {
                "image": [name],
                "height": SIDE,
                "width": SIDE,
                "caption": thing.caption,
                "mask": encode_rle(thing.mask),
                "boxes": [box],
            }
        )
    write_json(root / "test_caption.json", {"images": images, "annotations": annotations})
    write_json(root / "vg_val_5000.json", listed)


def write_refcocog(root: Path) -> None:
    """Osprey's file in COCO's layout, Draw-and-Understand's questions, VideoRefer's list; one expression a region."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    questions: list[dict[str, Any]] = []
    listed: dict[str, dict[str, Any]] = {}
    for number, (name, thing) in enumerate(_named_things("train2014", "COCO_train2014_{:012d}.jpg", root), 1):
        text, rle = thing.caption, encode_rle(thing.mask)
        images.append({"id": number, "file_name": name, "height": SIDE, "width": SIDE, "caption": text})
        annotations.append({"id": 1000 + number, "image_id": number, "segmentation": rle, "bbox": thing.xywh})
        questions.append(
            {
                "image_name": name,
                "question": "What do you see in the marked region?",
                "question_id": number,
                "dataset_name": "RefCOCOg_brief_caption",
                "gt_answers": f"Region 1: {text}\n",
                "bbox": [thing.xywh],
            }
        )
        entry = listed.setdefault(name, {"image": name, "height": SIDE, "width": SIDE, "cat": [], "masks": []})
        entry["cat"].append(text)
        entry["masks"].append(rle)
    write_json(root / "finetune_refcocog_val_with_mask.json", {"images": images, "annotations": annotations})
    write_json(root / "RefCOCOg_brief_caption.json", questions)
    write_json(root / "refcocog_val.json", list(listed.values()))


def write_ref_l4(root: Path) -> None:
    """Parquet files of both splits, and VideoRefer's JSON lines; two captions a box, the second one rewritten.

    Raises MissingPackageError without pyarrow.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingPackageError(
            "Ref-L4 is published as Parquet; a sample of it needs pyarrow: pip install 'pam-kit[benchmarks]'"
        ) from None
    rows: list[dict[str, Any]] = []
    for number, (name, thing) in enumerate(_named_things("images", "objects365_v2_{:08d}.jpg", root), 1):
        for rewritten, text in enumerate((thing.description, f"In this picture there is {thing.description}")):
            rows.append(
                {
                    "id": 2 * number + rewritten,
                    "caption": text,
                    "bbox": thing.xywh,
                    "bbox_area": thing.xywh[2] * thing.xywh[3],
                    "bbox_id": number,
                    "ori_category_id": "o365_1",
                    "image_id": name,
                    "height": SIDE,
                    "width": SIDE,
                    "file_name": name,
                    "is_rewrite": bool(rewritten),
                    "split": "val",
                }
            )
    for split in ("val", "test"):
        table = pyarrow.Table.from_pylist([row | {"split": split} for row in rows])
        pyarrow.parquet.write_table(table, root / f"ref-l4-{split}.parquet")
    # One of the pictures is from COCO, which VideoRefer leaves out.
    other = rows[-1] | {"id": 10_000, "file_name": "COCO_train2014_000000000009.jpg"}
    write_lines(root / "ref-l4-val.json", [*rows, other])


def _named_things(folder: str, pattern: str, root: Path) -> list[tuple[str, Thing]]:
    """Every object of every picture with the picture's name; the pictures are written."""
    found = []
    for index, scene in enumerate(scenes(), 1):
        name = pattern.format(index)
        write_picture(root / folder / name, scene.image)
        found += [(name, thing) for thing in scene.things]
    return found
