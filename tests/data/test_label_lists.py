"""Lists of labels: from a name, from annotations, from text, and what is refused in them."""

import json

import pytest

from pam_kit.data.coco_names import COCO_ZH
from pam_kit.data.label_lists import Label, checked_labels, read_labels, spoken
from pam_kit.errors import PamKitError

CATEGORIES = [
    {"id": 3, "name": "garden_hose", "synonyms": ["garden_hose", "hosepipe"]},
    {"id": 7, "name": "mug:handle"},
    {"id": 9, "name": "bow_(weapon)", "synonyms": []},
]


def written(path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_coco_in_both_languages():
    english, chinese = read_labels("coco"), read_labels("coco", "zh")
    assert [label.name for label in english] == [label.name for label in chinese] == list(COCO_ZH)
    assert [label.texts for label in chinese] == [(text,) for text in COCO_ZH.values()] and len(english) == 80
    assert english[0].texts == ("person",)


def test_categories_of_an_annotation_file(tmp_path):
    file = written(tmp_path / "lvis.json", json.dumps({"images": [], "categories": CATEGORIES}))
    assert read_labels(file) == [
        Label("garden_hose", ("garden hose",)),
        Label("mug:handle", ("mug:handle",)),
        Label("bow_(weapon)", ("bow (weapon)",)),
    ]
    with_synonyms = read_labels(file, synonyms=True)
    assert [label.texts for label in with_synonyms][0] == ("garden hose", "hosepipe")
    assert with_synonyms[1:] == read_labels(file)[1:]


def test_lines_of_text(tmp_path):
    file = written(tmp_path / "labels.txt", "\ufeffcup\n\n  tea_pot \nmug\ta mug\tcoffee mug\n杯子\n")
    assert read_labels(file) == [
        Label("cup", ("cup",)),
        Label("tea_pot", ("tea pot",)),
        Label("mug", ("a mug", "coffee mug")),
        Label("杯子", ("杯子",)),
    ]
    assert spoken("__a_b__  c") == "a b c"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("one.txt", "cup\n", "1 labels; there is nothing to choose between"),
        ("twice.txt", "cup\nbowl\ncup\n", "'cup' stands 2 times"),
        ("empty.txt", "cup\nbowl\t \n", "'bowl' has no words"),
        ("not.json", "cup\nbowl", "no annotation file"),
        ("list.json", '["cup"]', "no annotation file"),
        ("nameless.json", '{"categories": [{"id": 1}]}', "no annotation file"),
    ],
)
def test_what_is_no_list(tmp_path, name, text, told):
    with pytest.raises(PamKitError, match=told):
        read_labels(written(tmp_path / name, text))


def test_what_is_no_file(tmp_path):
    with pytest.raises(PamKitError, match="no such file; give coco, an annotation file"):
        read_labels(str(tmp_path / "lvis"))
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(PamKitError, match="is no text"):
        read_labels(str(tmp_path / "picture.txt"))
    with pytest.raises(PamKitError, match="has no words"):
        checked_labels([Label("a", ()), Label("b", ("b",))], "here")
