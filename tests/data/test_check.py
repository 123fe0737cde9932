"""The check of a whole dataset: a file with one of everything, and the real photographs where they are at hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pam_kit.data.check import check_dataset
from pam_kit.data.coco import CocoDataset
from pam_kit.data.jsonl import JsonlDataset
from pam_kit.data.masks import encode_rle

MINI = Path(__file__).parents[3] / "shared" / "data" / "coco_mini"


def rectangle(x1, y1, x2, y2):
    mask = np.zeros((200, 200), dtype=bool)
    mask[y1:y2, x1:x2] = True
    return encode_rle(mask)


CUP = {"recognize": {"en": "cup", "zh": "杯子"}}
LARGE = rectangle(20, 30, 120, 160)
REGIONS = [
    [{"id": "fine", "box": [20, 30, 120, 160], "mask": LARGE, "texts": CUP}],
    [{"id": "sizes", "box": [20, 30, 100, 130], "mask": rectangle(20, 30, 120, 160), "texts": CUP}],
    [
        {"id": "swapped", "box": [20, 30, 40, 50], "mask": rectangle(20, 30, 60, 80)},
        {"id": "pointed", "box": [20, 30, 40, 50], "points": [[55, 75], [5, 5]], "labels": [1, 0], "texts": CUP},
        {"id": "inside", "box": [20, 30, 40, 50], "points": [[25, 35]], "labels": [1], "texts": CUP},
    ],
    [{"id": "same", "mask": LARGE, "texts": {"caption": {"en": "OK", "zh": "OK "}, "recognize": {"en": "sign"}}}],
    [{"id": "tiny", "mask": rectangle(0, 0, 1, 3)}, {"id": "small", "mask": rectangle(0, 0, 2, 2)}],
    [{"id": "box", "box": [90, 90, 30, 30], "texts": CUP}],
    [{"id": "other", "box": [91, 80, 20, 30], "texts": CUP}],
    [{"id": "silent", "box": [1, 1, 2, 2]}],
]


@pytest.fixture
def report(tmp_path):
    Image.new("RGB", (200, 200)).save(tmp_path / "p.png")
    lines = [json.dumps({"image": "p.png", "regions": regions}) for regions in REGIONS]
    lines += [json.dumps({"image": f"{name}.png", "regions": REGIONS[0]}) for name in ("no", "nothing", "n1", "n2")]
    (tmp_path / "set.jsonl").write_text("\n".join(lines))
    seen = []

    def progress(items, total, desc):
        assert total == 12 and desc
        for item in items:
            seen.append(item)
            yield item

    report = check_dataset(JsonlDataset(str(tmp_path / "set.jsonl")), progress)
    assert seen == list(range(12))
    return report


def test_what_there_is_is_counted(report):
    assert (report.pictures, report.regions, report.masks) == (5, 8, 6)
    assert report.texts == {
        ("recognize", "en"): 5,
        ("recognize", "zh"): 4,
        ("caption", "en"): 1,
        ("caption", "zh"): 1,
    }


def test_broken_samples_are_grouped_by_kind(report):
    groups = [[sample.source for sample in group] for group in report.broken_by_reason().values()]
    assert sorted(map(len, groups)) == [1, 2, 4]
    assert groups[0] == [f"set.jsonl:{i}" for i in (9, 10, 11, 12)]
    assert groups[1] == ["set.jsonl:6", "set.jsonl:7"]


def test_doubtful_regions_are_named(report):
    assert [line.split(" [")[0] for line in report.swapped_boxes] == [
        "set.jsonl:2 region sizes",
        "set.jsonl:3 region swapped",
        "set.jsonl:3 region pointed",
    ]
    assert report.identical_texts == ["set.jsonl:4 region same caption: 'OK'"]
    assert report.tiny_masks == ["set.jsonl:5 region tiny (3 pixels)"]


def test_the_report_reads_as_text(report):
    text = "\n".join(report.lines())
    assert "5 pictures, 8 regions, 6 of them with a mask" in text
    assert "7 of 12 samples are broken (58.33%)" in text
    assert "4 like: the picture '" in text and "set.jsonl:9, set.jsonl:10" in text
    assert "3 boxes that look like x, y, width, height" in text
    assert "looks like [x, y, width, height]" in text


def test_an_empty_dataset(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    report = check_dataset(JsonlDataset(str(tmp_path / "empty.jsonl")))
    assert report.lines()[0] == "0 pictures, 0 regions, 0 of them with a mask"


@pytest.mark.skipif(not MINI.is_dir(), reason=f"no COCO photographs at {MINI}")
def test_real_photographs_are_sound():
    report = check_dataset(CocoDataset(str(MINI), split="val2017"))
    assert (report.pictures, report.regions, report.broken) == (51, 436, [])
    assert report.identical_texts == [] and report.swapped_boxes == []
