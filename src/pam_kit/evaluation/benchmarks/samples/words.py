"""Samples of the benchmarks of words in pictures: COCO-Text and Total-Text."""

from pathlib import Path
from typing import Any

import numpy as np

from pam_kit.errors import MissingPackageError
from pam_kit.evaluation.benchmarks.samples.scenes import SIDE, Lettering, signs, write_json, write_picture


def write_coco_text(root: Path) -> None:
    """Version 2's file, with words that have to be left out, and Draw-and-Understand's questions."""
    pictures: dict[str, Any] = {}
    annotations: dict[str, Any] = {}
    by_picture: dict[str, list[int]] = {}
    questions = []
    for index, (image, letterings) in enumerate(signs(), 1):
        name = f"COCO_train2014_{index:012d}.jpg"
        write_picture(root / "train2014" / name, image)
        split = "val" if index < 3 else "test"
        pictures[str(index)] = {"id": index, "file_name": name, "width": SIDE, "height": SIDE, "set": split}
        for lettering in letterings:
            _annotate(annotations, by_picture, index, lettering)
        answers = "\n".join(f"Region {number}: {one.text}" for number, one in enumerate(letterings, 1))
        questions.append(
            {
                "image_name": name,
                "question": "Read the text in each marked region.",
                "question_id": index,
                "dataset_name": "COCOText_box",
                "gt_answers": answers,
                "bbox": [one.xywh for one in letterings],
            }
        )
    _annotate(annotations, by_picture, 1, signs()[0][1][0], legibility="illegible", utf8_string="")
    _annotate(annotations, by_picture, 2, signs()[1][1][0], utf8_string="")
    content = {"cats": {}, "anns": annotations, "imgs": pictures, "imgToAnns": by_picture, "info": {}}
    write_json(root / "cocotext.v2.json", content)
    write_json(root / "COCOText_box.json", questions)


def _annotate(
    annotations: dict[str, Any], by_picture: dict[str, list[int]], picture: int, lettering: Lettering, **facts: str
) -> None:
    number = 100 + len(annotations)
    corners = zip(lettering.xs, lettering.ys, strict=True)
    annotations[str(number)] = {
        "id": number,
        "image_id": picture,
        "bbox": lettering.xywh,
        "mask": [value for corner in corners for value in corner],
        "utf8_string": lettering.text,
        "legibility": "legible",
        "class": "machine printed",
        "language": "english",
        "area": lettering.xywh[2] * lettering.xywh[3],
    } | facts
    by_picture.setdefault(str(picture), []).append(number)


def write_total_text(root: Path) -> None:
    """A text and a MATLAB file a picture; the first word's arrays go over two lines, the last is not to be read.

    Raises MissingPackageError without SciPy.
    """
    try:
        from scipy.io import savemat
    except ModuleNotFoundError:
        raise MissingPackageError(
            "Total-Text is also published as MATLAB files, which need SciPy: pip install 'pam-kit[benchmarks]'"
        ) from None

    for index, (image, letterings) in enumerate(signs(), 1):
        write_picture(root / "Images" / "Test" / f"img{index}.jpg", image)
        folder = root / "Groundtruth" / "Polygon" / "Test"
        folder.mkdir(parents=True, exist_ok=True)
        words = [*letterings, Lettering("#", (1, 9, 9, 1), (1, 1, 5, 5))]
        lines = [_line(word, wrapped=number == 0) for number, word in enumerate(words)]
        (folder / f"poly_gt_img{index}.txt").write_text("".join(lines), encoding="utf-8")
        rows: np.ndarray = np.empty((len(words), 6), dtype=object)
        for number, word in enumerate(words):
            rows[number, :4] = ["x:", np.array([word.xs], np.int16), "y:", np.array([word.ys], np.int16)]
            rows[number, 4:] = [word.text, "#" if word.text == "#" else "c"]
        savemat(folder / f"poly_gt_img{index}.mat", {"polygt": rows})


def _line(word: Lettering, wrapped: bool) -> str:
    """As Python 2 prints arrays and texts."""
    xs, ys = (" ".join(map(str, values)) for values in (word.xs, word.ys))
    if wrapped:
        xs = xs.replace(" ", "\n  ", 3).replace("\n  ", " ", 2)
    orientation = "#" if word.text == "#" else "c"
    quote = '"' if "'" in word.text else "'"
    text = word.text.encode("unicode_escape").decode("ascii")
    return f"x: [[{xs}]], y: [[{ys}]], ornt: [u'{orientation}'], transcriptions: [u{quote}{text}{quote}]\n"
