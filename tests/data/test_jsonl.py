"""The JSONL dataset: lines found where they lie, small to pickle, the same twice."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from pam_kit.data import lines
from pam_kit.data.jsonl import JsonlDataset
from pam_kit.data.lines import LineFile
from pam_kit.errors import BrokenSample, PamKitError
from pam_kit.registry import find


@pytest.mark.parametrize("content", ["", "\n", "a", "a\n", "a\n\nbb\n\n\nccc", "a\r\nb\r\n", "\n\nlast\n", "é\n杯子\n"])
@pytest.mark.parametrize("block", [1, 2, 3, 1 << 20])
def test_line_index_equals_pythons_own_lines(tmp_path, monkeypatch, content, block):
    monkeypatch.setattr(lines, "_BLOCK_BYTES", block)
    path = tmp_path / "lines.jsonl"
    path.write_bytes(content.encode())
    expected = [(number, line) for number, line in enumerate(content.split("\n"), 1) if line]
    file = LineFile(str(path))
    assert [(file.source(i), file.read(i)) for i in range(len(file))] == [
        (f"lines.jsonl:{number}", line) for number, line in expected
    ]
    with pytest.raises(IndexError):
        file.read(len(file))


def test_index_does_not_hold_the_lines(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join("x" * 10_000 for _ in range(200)))
    file = LineFile(str(path))
    assert len(file) == 200
    assert len(pickle.dumps(file)) < 10_000


@pytest.fixture
def folder(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)
    texts = ["one", "two", "three"]
    entries = []
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
        region = {"id": "a", "box": [1, 1, 5, 5], "texts": {"caption": {"en": texts[number]}}}
        entries.append(json.dumps({"image": f"{number}.png", "regions": [region]}))
    (tmp_path / "train.jsonl").write_text(f"{entries[0]}\n\n{entries[1]}\nnot JSON\n{entries[2]}", encoding="utf-8")
    return tmp_path


def test_samples_in_order_with_their_line_numbers(folder):
    dataset = JsonlDataset(str(folder / "train.jsonl"))
    assert len(dataset) == 4
    assert [dataset[i].source for i in (0, 1, 3)] == ["train.jsonl:1", "train.jsonl:3", "train.jsonl:5"]
    assert [*dataset.texts()] == ["one", "two", "three"]
    with pytest.raises(BrokenSample, match="train.jsonl:4: invalid JSON"):
        dataset[2]
    with pytest.raises(IndexError):
        dataset[4]


def test_a_pickled_dataset_gives_the_same_samples(folder):
    dataset = JsonlDataset(str(folder / "train.jsonl"))
    unread = pickle.loads(pickle.dumps(dataset))
    first = dataset[3]
    for other in (unread, pickle.loads(pickle.dumps(dataset)), JsonlDataset(str(folder / "train.jsonl"))):
        again = other[3]
        assert np.array_equal(again.image, first.image)
        assert (again.source, again.regions) == (first.source, first.regions)


def test_image_root(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lines")
    (folder / "train.jsonl").rename(elsewhere / "train.jsonl")
    assert JsonlDataset(str(elsewhere / "train.jsonl"), image_root=str(folder))[0].image.shape == (6, 8, 3)
    with pytest.raises(BrokenSample, match="does not exist"):
        JsonlDataset(str(elsewhere / "train.jsonl"))[0]


def test_missing_files_are_named(folder):
    with pytest.raises(PamKitError, match="no file .*gone.jsonl; expected a JSONL"):
        JsonlDataset(str(folder / "gone.jsonl"))
    with pytest.raises(PamKitError, match="no folder .*gone; expected the dataset's pictures"):
        JsonlDataset(str(folder / "train.jsonl"), image_root=str(folder / "gone"))


def test_bytes_that_are_not_utf8_are_a_broken_sample(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"image": "caf\xe9.jpg"}\n')
    with pytest.raises(BrokenSample, match="latin.jsonl:1: not UTF-8"):
        JsonlDataset(str(tmp_path / "latin.jsonl"))[0]


def test_registered_with_documented_arguments():
    spec = find("dataset", "jsonl")
    assert [p.name for p in spec.parameters] == ["path", "image_root"] and all(p.doc for p in spec.parameters)
    assert spec.doc and spec.load() is JsonlDataset
