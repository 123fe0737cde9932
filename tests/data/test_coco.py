"""COCO instances: a file made on the spot, and the real photographs where they are at hand."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pam_kit.data.coco import CocoDataset
from pam_kit.data.coco_names import COCO_ZH
from pam_kit.errors import BrokenSample, PamKitError
from pam_kit.registry import find

MINI = Path(__file__).parents[3] / "shared" / "data" / "coco_mini"
needs_photographs = pytest.mark.skipif(not MINI.is_dir(), reason=f"no COCO photographs at {MINI}")

SQUARE = [[2.0, 2.0, 6.0, 2.0, 6.0, 6.0, 2.0, 6.0]]
CROWD = {"size": [10, 20], "counts": [100, 50, 50]}


def annotation(number, image, category, segmentation=SQUARE, area=16, crowd=0):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "area": area,
        "iscrowd": crowd,
        "bbox": [2, 2, 4, 4],
    }


def content():
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 20, "height": 10} for i in (9, 3, 5)],
        "categories": [{"id": 1, "name": "cup"}, {"id": 7, "name": "garden_hose"}],
        "annotations": [
            annotation(40, 3, 7),
            annotation(30, 9, 1),
            annotation(50, 3, 1, area=2),
            annotation(60, 5, 1, CROWD, 50, crowd=1),
        ],
    }


@pytest.fixture
def make(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val").mkdir()
    for number in (9, 3, 5):
        Image.fromarray(np.full((10, 20, 3), number, dtype=np.uint8)).save(tmp_path / "val" / f"{number}.png")

    def build(file=None, **arguments):
        text = json.dumps(content() if file is None else file)
        (tmp_path / "annotations" / "instances_val.json").write_text(text)
        return CocoDataset(str(tmp_path), split="val", **arguments)

    build.folder = tmp_path
    return build


def ids(dataset):
    return [[region.id for region in dataset[i].regions] for i in range(len(dataset))]


def test_pictures_with_wanted_objects_in_the_files_order(make):
    dataset = make()
    assert ids(dataset) == [["30"], ["40", "50"]]
    sample = dataset[1]
    assert sample.source == "instances_val.json:image 3" and (sample.image == 3).all()
    hose, cup = sample.regions
    assert hose.texts == {"recognize": {"en": "garden_hose"}} and cup.texts == {
        "recognize": {"en": "cup", "zh": "杯子"}
    }
    assert hose.attributes == {"label": "garden_hose", "category_id": 7, "area_share": 16 / 200}
    assert hose.prompt is None
    expected = np.zeros((10, 20), dtype=bool)
    expected[2:6, 2:6] = True
    assert np.array_equal(hose.mask, expected)
    assert [*dataset.texts()] == ["cup", "杯子", "garden_hose", "cup", "杯子"]


def test_filters(make):
    assert ids(make(crowd=True)) == [["30"], ["40", "50"], ["60"]]
    assert make(crowd=True)[2].regions[0].mask[:, 10:15].all()  # runs go down the columns of 10 pixels
    assert ids(make(min_area=16 / 200)) == [["30"], ["40"]]
    assert ids(make(categories=["garden_hose"])) == [["40"]]
    assert len(make(categories=["cup"], min_area=0.5)) == 0


def test_pickled_and_built_again_it_is_the_same(make):
    dataset = make()
    for other in (make(), pickle.loads(pickle.dumps(dataset))):
        assert ids(other) == ids(dataset) and np.array_equal(other[0].image, dataset[0].image)


def test_broken_annotations_are_broken_samples(make):
    file = content()
    file["annotations"][0]["segmentation"] = {"size": [20, 10], "counts": [200]}
    with pytest.raises(BrokenSample, match="instances_val.json:image 3: region '40': the mask is 10x20 pixels"):
        make(file)[1]
    file = content()
    file["annotations"][1]["segmentation"] = [[0.1, 0.1, 0.2, 0.1, 0.2, 0.2]]
    with pytest.raises(BrokenSample, match="region '30': the mask is empty"):
        make(file)[0]
    (make.folder / "val" / "9.png").unlink()
    with pytest.raises(BrokenSample, match="image 9: the picture '.*9.png' does not exist"):
        make()[0]


def without(part, key=None):
    file = content()
    if key is None:
        del file[part]
    else:
        del file[part][0][key]
    return file


def misplaced(**changes):
    file = content()
    file["annotations"][2] |= changes
    return file


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (without("images"), "no list 'images'"),
        (without("annotations", "area"), "an entry of annotations has no 'area'"),
        (without("images", "width"), "an entry of images has no 'width'"),
        ([], "no list 'images'"),
        (misplaced(image_id=77), "annotation 50 belongs to image 77"),
        (misplaced(category_id=2), "annotation 50 belongs to image 3 and category 2"),
    ],
)
def test_a_file_of_another_format_is_refused(make, file, reason):
    with pytest.raises(PamKitError, match=reason):
        make(file)


def test_errors_name_files_and_categories(make, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(
        PamKitError, match=r"annotations/instances_train2017.json and .*train2017 not found.*cocodataset"
    ):
        CocoDataset(str(empty))
    with pytest.raises(PamKitError, match="unknown category 'cups'; did you mean 'cup'?"):
        make(categories=["cups"])
    (make.folder / "half.json").write_text('{"images": [')
    with pytest.raises(PamKitError, match="half.json is not a complete JSON file"):
        make(annotations=str(make.folder / "half.json"))


def test_other_places_for_annotations_and_pictures(make, tmp_path_factory):
    make()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (make.folder / "annotations" / "instances_val.json").rename(elsewhere / "mine.json")
    (make.folder / "val").rename(elsewhere / "photos")
    dataset = CocoDataset("nowhere", annotations=str(elsewhere / "mine.json"), images=str(elsewhere / "photos"))
    assert ids(dataset) == [["30"], ["40", "50"]]


def test_chinese_names_are_complete_chinese_and_distinct():
    assert len(COCO_ZH) == 80 and len(set(COCO_ZH.values())) == 80
    assert all("\u4e00" <= character <= "\u9fff" for name in COCO_ZH.values() for character in name)


def test_registered_with_documented_arguments():
    spec = find("dataset", "coco")
    assert all(p.doc for p in spec.parameters) and spec.load() is CocoDataset


@needs_photographs
@pytest.mark.parametrize(
    ("split", "pictures", "instances", "crowds"), [("train2017", 50, 560, 8), ("val2017", 51, 440, 4)]
)
def test_real_photographs(split, pictures, instances, crowds):
    dataset = CocoDataset(str(MINI), split=split, crowd=True)
    samples = [dataset[i] for i in range(len(dataset))]
    assert len(samples) == pictures
    regions = [region for sample in samples for region in sample.regions]
    assert len(regions) == instances
    assert all(set(region.texts["recognize"]) == {"en", "zh"} for region in regions)
    plain = CocoDataset(str(MINI), split=split)
    assert sum(len(plain.record(i).regions) for i in range(len(plain))) == instances - crowds


@needs_photographs
def test_real_masks_equal_those_of_pycocotools():
    file = json.loads((MINI / "annotations" / "instances_val2017.json").read_text())
    images = {image["id"]: image for image in file["images"]}
    expected = {}
    for one in file["annotations"]:
        image = images[one["image_id"]]
        parts = coco_mask.frPyObjects(one["segmentation"], image["height"], image["width"])
        rle = coco_mask.merge(parts) if isinstance(parts, list) else parts
        expected[str(one["id"])] = coco_mask.decode(rle)
    dataset = CocoDataset(str(MINI), split="val2017", crowd=True)
    for i in range(len(dataset)):
        for region in dataset[i].regions:
            assert np.array_equal(region.mask, expected.pop(region.id))
    assert not expected


@needs_photographs
def test_names_of_the_real_categories():
    file = json.loads((MINI / "annotations" / "instances_val2017.json").read_text())
    assert {category["name"] for category in file["categories"]} == set(COCO_ZH)
