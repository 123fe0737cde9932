"""``pam-kit everything`` as it is called: one picture, a folder, in processes, and what is refused."""

import json

import pytest
from PIL import Image
from pycocotools.coco import COCO

from pam_kit.inference.everything_lines import read_pictures

ANYTHING = ("--points", "2", "--min-iou", "0", "--min-stability", "0", "--max-regions", "2")


@pytest.fixture
def photos(tmp_path, drawn):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, frame in enumerate(drawn(3)):
        Image.fromarray(frame).save(folder / f"{index:04d}.png")
    (folder / "notes.txt").write_text("not a picture, nor called so")
    return folder


def test_one_picture(call, photos, tmp_path):
    out = tmp_path / "found"
    told = ("--out", out, *ANYTHING, "--lang", "en,zh", "--labels", "coco", "--processes", "2", "--json")
    code, printed, err = call("everything", photos / "0000.png", *told)
    assert code == 0 and "--processes: no effect" in err
    content = json.loads((out / "regions.json").read_text())
    assert json.loads(printed) == content and 1 <= len(content["annotations"]) <= 2
    assert Image.open(out / "regions.png").width > 96
    coco = COCO(str(out / "regions.json"))
    assert coco.loadCats([90])[0]["name"] == "toothbrush" and len(coco.cats) == 80
    for annotation in coco.anns.values():
        assert coco.cats[annotation["category_id"]]["name"] == annotation["labels"][0]["name"]
        assert sorted(annotation["texts"]) == ["caption"] and sorted(annotation["texts"]["caption"]) == ["en", "zh"]


def test_a_folder_in_processes_and_in_parts(call, photos, tmp_path):
    (photos / "broken.jpg").write_text("no picture")
    code, printed, err = call("everything", photos, "--out", tmp_path / "a", *ANYTHING, "--task", "caption", "--draw")
    assert code == 0 and "in 3 pictures, 1 pictures failed" in printed and "broken.jpg" in err
    assert len(list((tmp_path / "a" / "pictures").iterdir())) == 3
    for shard in ("1/2", "2/2"):
        told = ("--out", tmp_path / "b", *ANYTHING, "--task", "caption", "--shard", shard)
        code, printed, _ = call("everything", photos, *told)
        assert code == 0 and ("part done" in printed) == (shard == "1/2")
    whole, parts = (json.loads((tmp_path / name / "regions.json").read_text()) for name in "ab")
    assert whole == parts
    names = [picture.name for picture in read_pictures(tmp_path / "b" / "part_1_of_2.jsonl")[0]]
    assert names == ["0000.png", "0002.png"]


@pytest.mark.parametrize("source", ["whole", "."])
def test_drawings_in_the_folder_are_no_pictures_of_it(call, photos, monkeypatch, source):
    """Results lie in the folder itself, which is named in two ways."""
    monkeypatch.chdir(photos)
    for time in range(2):
        told = (photos if source == "whole" else ".", *ANYTHING, "--masks-only", "--draw")
        code, printed, _ = call("everything", *told)
        assert code == 0 and "in 3 pictures:" in printed, time
    content = json.loads((photos / "photos_everything" / "regions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["0000.png", "0001.png", "0002.png"]
    assert len(list((photos / "photos_everything" / "pictures").iterdir())) == 3


def test_processes_divide_the_pictures_that_the_call_saw(call, photos, tmp_path, monkeypatch):
    """A picture that comes meanwhile moves no other into another part."""
    from pam_kit.cli import everything, main

    def one_by_one(calls, count):
        for number in range(1, count + 1):
            (photos / f"000{number - 1}_new.png").write_bytes((photos / "0000.png").read_bytes())
            assert main([*calls, "--shard", f"{number}/{count}"]) == 0

    monkeypatch.setattr(everything, "run_parts", one_by_one)
    told = ("--out", tmp_path / "out", *ANYTHING, "--masks-only", "--processes", "2", "--draw", "--steps", "fixed")
    code, printed, _ = call("everything", photos, *told)
    assert code == 0 and "in 3 pictures:" in printed
    parts = [read_pictures(tmp_path / "out" / f"part_{number}_of_2.jsonl")[0] for number in (1, 2)]
    assert [[picture.name for picture in part] for part in parts] == [["0000.png", "0002.png"], ["0001.png"]]


def test_a_finished_folder_is_drawn_by_a_later_call(call, photos, tmp_path):
    told = ("everything", photos, "--out", tmp_path / "out", *ANYTHING, "--task", "caption")
    assert call(*told)[0] == 0 and not (tmp_path / "out" / "pictures").exists()
    assert call(*told, "--draw")[0] == 0 and len(list((tmp_path / "out" / "pictures").iterdir())) == 3


def test_precision_and_steps_reach_the_decoder(call, photos, tmp_path, monkeypatch):
    from pam_kit.inference.everything import Everything

    made, find = [], Everything.find
    monkeypatch.setattr(Everything, "find", lambda self, *rest: (made.append(self.predictor), find(self, *rest))[1])
    told = ("everything", photos, "--out", tmp_path / "out", *ANYTHING, "--task", "caption", "--steps", "fixed")
    assert call(*told, "--precision", "bfloat16")[0] == 0
    assert {str(next(one.model.decoder.parameters()).dtype) for one in made} == {"torch.bfloat16"}
    assert {one.settings.steps for one in made} == {"fixed"} and len(made) == 3
    code, _, err = call(*told)
    assert code == 2 and "its precision is bfloat16, now it would be None" in err
    assert json.loads((tmp_path / "out" / "regions.json").read_text())["info"]["made_with"]["precision"] == "bfloat16"


@pytest.mark.slow
def test_processes_make_what_one_makes(call, photos, tmp_path):
    for name, told in (("a", ()), ("b", ("--processes", "2"))):
        code, *_ = call("everything", photos, "--out", tmp_path / name, *ANYTHING, "--masks-only", *told)
        assert code == 0
    whole, parts = (json.loads((tmp_path / name / "regions.json").read_text()) for name in "ab")
    assert whole == parts and len(list((tmp_path / "b").glob("part_*.jsonl"))) == 2


def test_no_region_is_left_of_a_picture(call, photos, tmp_path):
    told = ("--out", tmp_path / "x", "--points", "1", "--min-iou", "1")
    code, printed, err = call("everything", photos / "0000.png", *told)
    assert code == 0 and printed.startswith("0 regions of 1 proposals") and "no region is left" in err
    assert not json.loads((tmp_path / "x" / "regions.json").read_text())["annotations"]


def test_what_is_refused(call, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"image": "other.png", "box": [1, 2, 3, 4]}]))
    refused = {
        "there is no picture and no folder": (tmp_path / "nowhere.png",),
        "holds no picture": (tmp_path / "empty",),
        "is no picture; their names end in": (photos / "notes.txt",),
        "is not a picture": (tmp_path / "text.png",),
        "it is about other.png": (photos / "0000.png", "--proposals", boxes),
        "proposes nothing for any picture": (photos, "--proposals", boxes),
        "cannot be read": (photos, "--proposals", tmp_path / "no.json"),
        "0 to 4 layers of crops": (photos, "--crop-layers", "9"),
    }
    for message, (source, *told) in refused.items():
        code, printed, err = call("everything", source, "--out", tmp_path / "out", *told)
        assert code == 2 and not printed and err.startswith("pam-kit everything: ") and message in err, err


@pytest.mark.parametrize("told", [("--min-iou", "2"), ("--overlap", "many"), ("--shard", "3/2"), ("--points", "0")])
def test_options_that_are_none(call, photos, told):
    with pytest.raises(SystemExit):
        call("everything", photos, *told)
