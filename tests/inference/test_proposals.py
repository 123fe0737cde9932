"""The grid and its crops against the sam2 package's, and what files propose."""

import json

import numpy as np
import pytest
from sam2.utils.amg import build_all_layer_point_grids, generate_crop_boxes

from pam_kit.data.masks import encode_rle
from pam_kit.errors import PamKitError
from pam_kit.inference.proposal_files import ProposalFile
from pam_kit.inference.proposals import GridSettings, grid_proposals, grid_windows

WIDTH, HEIGHT = 80, 48


@pytest.mark.parametrize(("size", "layers", "downscale"), [((640, 427), 0, 1), ((640, 427), 2, 2), ((333, 500), 3, 1)])
def test_grid_and_crops_are_those_of_sam(size, layers, downscale):
    settings = GridSettings(points=9, crop_layers=layers, crop_downscale=downscale)
    windows = grid_windows(*size, settings)
    boxes, numbers = generate_crop_boxes(size[::-1], layers, settings.crop_overlap)
    assert [[w.left, w.top, w.right, w.bottom] for w, _ in windows] == boxes
    assert [layer for _, layer in windows] == numbers
    grids = build_all_layer_point_grids(9, layers, downscale)
    points = [grids[layer] * [x2 - x1, y2 - y1] for (x1, y1, x2, y2), layer in zip(boxes, numbers, strict=True)]
    found = grid_proposals(windows, settings)
    assert np.allclose([one.prompt.points[0] for one in found], np.concatenate(points))
    assert [one.window for one in found] == [n for n, own in enumerate(points) for _ in own]


def test_a_picture_that_is_too_small_for_crops_is_not_cut():
    windows = grid_windows(3, 2, GridSettings(points=1, crop_layers=4))
    assert all(window.width > 0 and window.height > 0 for window, _ in windows) and len(windows) < 1 + 4 + 16 + 64


@pytest.mark.parametrize("wrong", [{"points": 0}, {"crop_layers": 5}, {"crop_overlap": 1.0}, {"crop_downscale": 0}])
def test_grids_that_are_none(wrong):
    with pytest.raises(PamKitError):
        GridSettings(**wrong)


def coco(**image) -> dict:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[5:20, 10:30] = True
    facts = {"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT, **image}
    boxed = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 5, 20, 15], "score": 0.5}
    masked = {"id": 2, "image_id": 7, "category_id": 3, "segmentation": encode_rle(mask)}
    keyed = {"id": 3, "image_id": 7, "category_id": 3, "keypoints": [1, 2, 2, 0, 0, 0, 9, 8, 1]}
    categories = [{"id": 3, "name": "cup"}]
    return {"images": [facts], "annotations": [boxed, masked, keyed], "categories": categories}


def written(tmp_path, content, name="proposals.json"):
    path = tmp_path / name
    lines = content if name.endswith(".jsonl") else [content]
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines))
    return path


def test_coco_annotations_become_boxes_masks_and_points(tmp_path):
    file = ProposalFile(written(tmp_path, coco()))
    (box, mask, points), notes = file.of("/some/where/a.png", WIDTH, HEIGHT)
    assert box.prompt.box == (10, 5, 30, 20) and (box.score, box.label) == (0.5, "cup") and not notes
    assert mask.prompt.mask.sum() == 300 and mask.score is None and not mask.several
    assert points.prompt.points == ((1, 2), (9, 8)) and points.prompt.labels == (1, 1)
    assert box.source == "proposals.json: annotation 1"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", [{"image_id": 12, "bbox": [1, 2, 3, 4], "score": 0.5, "category_id": 1}]),
        ("b.json", [{"image": "x/y/0012.png", "box": [1, 2, 4, 6], "score": 0.5}]),
        ("c.jsonl", [{"file_name": "0012.png", "bbox": [1, 2, 3, 4], "score": 0.5}]),
        ("d.jsonl", [{"image": "0012.png", "boxes": [[1, 2, 4, 6]], "scores": [0.5]}]),
        ("e.json", {"boxes": [[1, 2, 4, 6]], "scores": [0.5]}),
    ],
)
def test_boxes_of_detectors_in_their_forms(tmp_path, name, content):
    (found,), notes = ProposalFile(written(tmp_path, content, name)).of("y/0012.png", WIDTH, HEIGHT, alone=True)
    assert found.prompt.box == (1, 2, 4, 6) and found.score == 0.5 and not notes


def test_points_with_labels(tmp_path):
    lines = [{"image": "a.png", "points": [[1, 2], [3, 4, 0], [99, 4]]}]
    (found,), _ = ProposalFile(written(tmp_path, lines, "p.jsonl")).of("a.png", WIDTH, HEIGHT)
    assert found.prompt.points == ((1, 2), (3, 4)) and found.prompt.labels == (1, 0)


def test_boxes_over_the_edge_are_cut_and_those_outside_left_out_with_a_note(tmp_path):
    lines = [{"image": "a.png", "box": box} for box in ([-5, -5, 20, 20], [90, 5, 99, 20], [70, 40, 85, 50])]
    found, notes = ProposalFile(written(tmp_path, lines, "p.jsonl")).of("a.png", WIDTH, HEIGHT)
    assert [one.prompt.box for one in found] == [(0, 0, 20, 20), (70, 40, 80, 48)]
    assert len(notes) == 1 and notes[0].startswith("p.jsonl:2: the box from (90, 5, 99, 20) has nothing in")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (coco(file_name="other.png"), "proposes nothing for a.png: it is about other.png"),
        (coco(width=48, height=80), "as a picture of 48x80 pixels; it has 80x48"),
        ([{"image": "a.png", "box": [200, 1, 300, 9]}], "none of the 1 regions .* lies in it; are they of another"),
        ([{"image": "a.png", "box": [1, 2, 3]}], r"entry 1: box \[1, 2, 3\] is not x1, y1, x2, y2"),
        ([{"image": "a.png", "bbox": [1, 2, 3, float("nan")]}], "is not x, y, width, height"),
        ([{"image": "a.png", "score": 1}], "it has no bbox, box, points, keypoints or segmentation"),
        ([{"image": "a.png", "boxes": [[1, 2, 3, 4]], "scores": []}], "1 boxes, but 0 scores"),
        ([{"image": "a.png", "segmentation": {"size": [9, 9], "counts": "1"}}], "the mask is 9x9 pixels"),
        ({"annotations": []}, "has no images and annotations"),
        ({"images": [], "annotations": [{"id": 4, "image_id": 1}]}, "annotation 4 is of image 1"),
        ("{", "not JSON"),
        (3, "holds int"),
        ([3], "expected an object with a box"),
    ],
)
def test_proposals_that_are_no_good(tmp_path, content, message):
    with pytest.raises(PamKitError, match=message):
        ProposalFile(written(tmp_path, content)).of("a.png", WIDTH, HEIGHT)


def test_there_is_no_such_file(tmp_path):
    with pytest.raises(PamKitError, match="cannot be read"):
        ProposalFile(tmp_path / "no.json")


def test_names_mean_pictures_by_the_ends_of_their_paths(tmp_path):
    """``val/0001.jpg`` is not about ``train/0001.jpg``; a folder may begin anywhere in the file's paths, or above."""
    told = ["val/0001.jpg", "0002.jpg", "coco/val/0003.jpg", "val/0004.jpg", "0004.jpg", 17]
    file = ProposalFile(written(tmp_path, [{"image": name, "box": [1, 2, 4, 6]} for name in told]))
    pictures = [
        "train/0001.jpg",
        "val/0001.jpg",
        "x/0002.jpg",
        "val/0003.jpg",
        "val/0004.jpg",
        "0004.jpg",
        "y/0017.jpg",
    ]
    assert file.called(pictures, tmp_path) == {
        "val/0001.jpg": "val/0001.jpg",
        "x/0002.jpg": "0002.jpg",
        "val/0003.jpg": "coco/val/0003.jpg",
        "val/0004.jpg": "val/0004.jpg",
        "0004.jpg": "0004.jpg",
        "y/0017.jpg": 17,
    }
    assert file.called(["train/0001.jpg"], tmp_path) == {}
    with pytest.raises(PamKitError, match="proposes nothing for train/0001.jpg: .* one of their paths is the end"):
        file.of("train/0001.jpg", WIDTH, HEIGHT)


def test_a_folder_says_which_of_two_names_is_meant(tmp_path):
    file = ProposalFile(written(tmp_path, [{"image": f"{at}/1.jpg", "box": [1, 2, 4, 6]} for at in ("train", "val")]))
    assert file.called(["1.jpg"], tmp_path / "coco" / "val") == {"1.jpg": "val/1.jpg"}
    assert file.of("1.jpg", WIDTH, HEIGHT, called="val/1.jpg")[0]
    with pytest.raises(PamKitError, match=r"is about train/1.jpg and val/1.jpg, and 1.jpg may be either; give the"):
        file.called(["1.jpg"], tmp_path)


@pytest.mark.parametrize("name", ["0001.jpg", 1])
def test_a_name_that_two_pictures_share_is_refused_unless_it_is_all_of_a_path(tmp_path, name):
    file = ProposalFile(written(tmp_path, [{"image": name, "box": [1, 2, 4, 6]}]))
    with pytest.raises(PamKitError, match=r"says 0*1(.jpg)?, which may be train/0001.jpg or val/0001.jpg of .*write"):
        file.called(["train/0001.jpg", "val/0001.jpg"], tmp_path)
    if name != 1:
        assert file.called(["0001.jpg", "val/0001.jpg"], tmp_path) == {"0001.jpg": "0001.jpg"}
