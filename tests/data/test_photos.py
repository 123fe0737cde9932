"""The annotated photographs: outlines against the pictures, texts against the tasks, masks against scikit-image."""

import json
import re
from importlib.resources import files
from importlib.util import find_spec

import numpy as np
import pytest

from pam_kit.data import photos
from pam_kit.errors import BrokenSample, MissingPackageError
from pam_kit.registry import find
from pam_kit.tasks import LANGUAGES, TASKS

needs_photos = pytest.mark.skipif(not (find_spec("skimage") and find_spec("sklearn")), reason="extra photos is absent")

ENTRIES = [json.loads(line) for line in files("pam_kit.data").joinpath("photos.jsonl").read_text("utf-8").splitlines()]
REGIONS = [(entry["image"], region) for entry in ENTRIES for region in entry["regions"]]
CHINESE = re.compile(r"[\u4e00-\u9fff]")
# Hues in degrees that a colour's pixels have on average. Wide: lamps and sunset tint them, above all green eyes.
HUES = {
    "red": (-20, 20),
    "orange": (15, 40),
    "brown": (15, 50),
    "yellow": (35, 65),
    "green": (30, 170),
    "purple": (250, 310),
}


@pytest.fixture(scope="module")
def dataset():
    return find("dataset", "photos").build()


@pytest.fixture(scope="module")
def samples(dataset):
    return [dataset[index] for index in range(len(dataset))]


@needs_photos
def test_sample_size(dataset):
    assert len(dataset) == len(ENTRIES) >= 8
    assert len(REGIONS) >= 30


def test_ids_are_unique():
    ids = [region["id"] for _, region in REGIONS]
    assert len(set(ids)) == len(ids)
    assert len({entry["image"] for entry in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize(("image", "region"), REGIONS, ids=lambda value: value["id"] if isinstance(value, dict) else "")
def test_texts(image, region):
    assert set(region["texts"]) == set(TASKS)
    for task, by_language in region["texts"].items():
        assert set(by_language) == set(LANGUAGES)
        english, chinese = by_language["en"], by_language["zh"]
        assert english.isascii() and english == english.strip()
        assert len(CHINESE.findall(chinese)) / len(chinese) > 0.7 and not re.search("[a-zA-Z .,]", chinese)
        if task != "recognize":
            assert english[0].isupper() and english[-1] == "." and chinese[-1] == "。"
    name = {language: region["texts"]["recognize"][language] for language in LANGUAGES}
    assert region["attributes"]["label"] == name["en"] == name["en"].lower()
    assert region["texts"]["explain"]["en"].lower().startswith(name["en"] + ": ")
    assert region["texts"]["explain"]["zh"].startswith(name["zh"] + "：")
    assert len(region["texts"]["caption"]["en"]) < len(region["texts"]["describe"]["en"]) < 240


@needs_photos
def test_pictures_are_rgb_and_outlines_lie_inside(samples):
    for sample, entry in zip(samples, ENTRIES, strict=True):
        height, width, channels = sample.image.shape
        assert channels == 3 and sample.image.dtype == np.uint8
        for region in entry["regions"]:
            for polygon in region["polygons"]:
                corners = np.array(polygon).reshape(-1, 2)
                assert len(corners) >= 6
                assert (corners >= 0).all() and (corners <= (width, height)).all()


@needs_photos
def test_masks_agree_with_scikit_image(samples):
    from skimage.draw import polygon2mask

    for sample, entry in zip(samples, ENTRIES, strict=True):
        height, width = sample.image.shape[:2]
        for region, annotated in zip(sample.regions, entry["regions"], strict=True):
            assert region.id == annotated["id"] and region.mask.shape == (height, width) and region.mask.dtype == bool
            expected = np.zeros((height, width), dtype=bool)
            for polygon in annotated["polygons"]:
                # scikit-image counts (row, column) from the first pixel's centre.
                corners = np.array(polygon, dtype=float).reshape(-1, 2)[:, ::-1] - 0.5
                expected |= polygon2mask((height, width), corners)
            overlap = (expected & region.mask).sum() / (expected | region.mask).sum()
            assert overlap > 0.93, region.id
            assert 0.0005 < region.mask.mean() < 0.8, region.id


@needs_photos
def test_outlines_separate_an_object_from_its_surroundings(samples):
    """A band inside most outlines must look unlike the band outside; shifted outlines fail this."""
    from scipy.ndimage import binary_dilation, binary_erosion

    def contrast(image, mask):
        inner = mask & ~binary_erosion(mask, iterations=3)
        outer = binary_dilation(mask, iterations=4) & ~binary_dilation(mask, iterations=1)
        return float(np.linalg.norm(np.median(image[inner], 0).astype(float) - np.median(image[outer], 0)))

    better = 0
    for sample in samples:
        for region in sample.regions:
            rows, columns = np.flatnonzero(region.mask.any(1)), np.flatnonzero(region.mask.any(0))
            around = np.s_[max(0, rows[0] - 16) : rows[-1] + 16, max(0, columns[0] - 16) : columns[-1] + 16]
            image, mask = sample.image[around], region.mask[around]
            shifted = max(contrast(image, np.roll(mask, step, (0, 1))) for step in ((9, 9), (-9, -9)))
            better += contrast(image, mask) > shifted
    assert better >= 0.75 * len(REGIONS)


@needs_photos
def test_colours_agree_with_the_pixels(samples):
    from skimage.color import rgb2hsv

    for sample in samples:
        hsv = rgb2hsv(sample.image)
        for region in sample.regions:
            colour = region.attributes.get("colour")
            hue, saturation, value = hsv[region.mask].T
            if colour in HUES:
                mean = (np.exp(2j * np.pi * hue) * saturation * value).mean()
                low, high = HUES[colour]
                assert (np.degrees(np.angle(mean)) - low) % 360 <= high - low, region.id
            elif colour == "black":
                assert np.median(value) < 0.45, region.id
            elif colour == "white":
                assert np.median(value) > 0.6 and np.median(saturation) < 0.3, region.id
            elif colour == "grey":
                assert np.median(saturation) < 0.2 and 0.2 < np.median(value) < 0.8, region.id
            else:
                # Silver mirrors whatever is near; its pixels say nothing.
                assert colour in (None, "silver"), region.id


@needs_photos
def test_texts_are_all_texts_of_all_regions(dataset, samples):
    expected = [t for s in samples for r in s.regions for languages in r.texts.values() for t in languages.values()]
    assert sorted(dataset.texts()) == sorted(expected)
    assert len(expected) == len(REGIONS) * len(TASKS) * len(LANGUAGES)


def test_missing_package_names_the_pip_line(monkeypatch):
    monkeypatch.setattr(photos, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"scikit-image.*pip install 'pam-kit\[photos\]'"):
        photos.PhotosDataset()


@needs_photos
def test_missing_picture_names_the_package(dataset, monkeypatch, tmp_path):
    monkeypatch.setitem(dataset._folders, "skimage", tmp_path)
    with pytest.raises(BrokenSample, match=r"photos:skimage/astronaut\.png.*scikit-image"):
        dataset[0]


@needs_photos
def test_no_index_behind_the_last(dataset):
    with pytest.raises(IndexError):
        dataset[len(dataset)]
