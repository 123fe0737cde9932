"""All regions of a picture: against each proposal by itself, by its properties, and stopped, divided, gone on with."""

import json
import shutil
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from pam_kit.contracts import RegionPrompt
from pam_kit.data.masks import decode_rle
from pam_kit.errors import PamKitError
from pam_kit.geometry import mask_box, mask_iou
from pam_kit.inference.closed_set import ClosedSet
from pam_kit.inference.deduplication import Overlap
from pam_kit.inference.everything import Everything, EverythingSettings
from pam_kit.inference.everything_lines import as_coco, read_pictures
from pam_kit.inference.everything_picture import draw_everything
from pam_kit.inference.everything_run import EverythingRun, picture_lines
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.proposal_files import ProposalFile
from pam_kit.inference.proposals import GridSettings, Proposal
from pam_kit.inference.session_settings import SessionSettings
from pam_kit.inference.shard import Shard

# A random model is sure of nothing.
ANYTHING = {"min_iou": 0.0, "min_stability": 0.0, "overlap": Overlap(0.99)}
GRID = GridSettings(points=3)
MASKS = EverythingSettings(GRID, tasks=(), **ANYTHING)


def picture(seed: int = 0, size: tuple[int, int] = (48, 80)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def predictor(video_model) -> RegionPredictor:
    return RegionPredictor(video_model, "cpu", SessionSettings(region_batch=4))


@torch.inference_mode()
def by_hand(predictor, image, x: float, y: float):
    """The three masks (48, 80) of a point, with expected IoU and stability, one point a call."""
    ((_, features),) = predictor.open(image).segment([RegionPrompt(points=((x, y),), labels=(1,))])
    found = {}
    for candidate in (1, 2, 3):
        logits = features.candidate_logits[:, candidate : candidate + 1]
        mask = torch.nn.functional.interpolate(logits, size=image.shape[:2], mode="bilinear")[0, 0] > 0
        inner, outer = (logits > 1).sum().item(), (logits > -1).sum().item()
        found[candidate] = (mask.numpy(), features.candidate_iou[0, candidate].item(), inner / max(outer, 1))
    return found


def test_every_region_is_one_of_a_proposals_masks_and_passes(predictor):
    image = picture()
    points = [(x, y) for y in (8.0, 24.0, 40.0) for x in (80 / 6, 40.0, 80 * 5 / 6)]
    expected = {point: by_hand(predictor, image, *point) for point in points}
    ious = sorted(iou for masks in expected.values() for _, iou, _ in masks.values())
    stabilities = sorted(s for masks in expected.values() for *_, s in masks.values())
    least = {"min_iou": ious[6] + 1e-4, "min_stability": stabilities[6] + 1e-4, "min_area": 90}
    settings = EverythingSettings(GRID, Overlap(0.8), tasks=(), **least)
    found = Everything(predictor, settings).find(image)
    assert found.proposals == 9 and (found.width, found.height) == (80, 48) and found.regions
    for one in found.regions:
        (x, y) = one.prompt.points[0]
        mask, iou, stability = next(m for (px, py), m in expected.items() if abs(px - x) + abs(py - y) < 1e-6)[
            one.candidate
        ]
        own = decode_rle(one.segmentation)
        assert mask_iou(own, mask) > 0.99 and one.area == own.sum() >= 90 and one.box == mask_box(own)
        assert one.iou == pytest.approx(iou, abs=1e-4) and one.stability == pytest.approx(stability, abs=0.02)
        assert one.iou >= least["min_iou"] and one.stability >= least["min_stability"]
    scores = [one.score for one in found.regions]
    assert scores == sorted(scores, reverse=True)
    masks = [decode_rle(one.segmentation) for one in found.regions]
    assert all(mask_iou(a, b) <= 0.8 for a, b in combinations(masks, 2))
    # What is not there was no better, or shows the same as what is.
    passing = [
        mask
        for own in expected.values()
        for mask, iou, stability in own.values()
        if iou > least["min_iou"] + 1e-3 and stability > least["min_stability"] + 0.02 and mask.sum() > 95
    ]
    assert len(passing) >= len(masks) / 2 and all(max(mask_iou(p, m) for m in masks) > 0.79 for p in passing)


def test_nothing_is_encoded_twice_and_memory_is_bounded(predictor, monkeypatch):
    backbone, pictures, regions = predictor.model.backbone, [], []
    encode, segment = backbone.encode, backbone.segment
    monkeypatch.setattr(backbone, "encode", lambda images: (pictures.append(len(images)), encode(images))[1])
    monkeypatch.setattr(backbone, "segment", lambda f, i, p: (regions.append(len(p)), segment(f, i, p))[1])
    settings = EverythingSettings(GridSettings(points=3, crop_layers=1), max_regions=5, max_new_tokens=2, **ANYTHING)
    found = Everything(predictor, settings).find(picture())
    assert len(found.regions) == 5 and found.proposals == 5 * 9
    # The picture and its four crops; the points, then the five regions once more for their texts.
    assert sum(pictures) == 5 and sum(regions) <= 45 + 5 and max(regions) <= 4


def test_texts_are_about_the_masks_that_are_shown(predictor):
    image = picture()
    settings = EverythingSettings(GRID, max_regions=6, languages=("en", "zh"), max_new_tokens=4, **ANYTHING)
    found = Everything(predictor, settings).find(image)
    session = predictor.open(image)
    for one in found.regions:
        (alone,) = session.ask([one.prompt], ("caption",), ("zh",), 4, candidates=[one.candidate])
        assert one.error is None and sorted(one.texts) == ["caption", "recognize"]
        assert one.texts["caption"]["zh"].text == alone.texts["caption"]["zh"].text
        assert mask_iou(decode_rle(one.segmentation), alone.mask) > 0.99


@pytest.fixture
def discs(predictor, monkeypatch):
    """Every mask of every prompt is a disc of 8 pixels of the model's 64 around its point."""
    segment = predictor.model.backbone.segment

    def drawn(features, index, prompts):
        regions = segment(features, index, prompts)
        side = regions.mask_logits.shape[-1]
        y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
        points = prompts.points[:, 0, :, None, None] * side / 64
        distance = ((x - points[:, 0]) ** 2 + (y - points[:, 1]) ** 2).sqrt()
        regions.mask_logits = 20 * (8 * side / 64 - distance)[:, None]
        regions.candidate_logits = regions.mask_logits.repeat(1, regions.candidate_logits.shape[1], 1, 1)
        return regions

    monkeypatch.setattr(predictor.model.backbone, "segment", drawn)


def test_regions_of_crops_lie_where_their_points_do_and_are_whole(predictor, discs):
    """Crops of 60 x 60 pixels that begin at 0 and 40: points at 10, 30 and 50 of each, discs of 7.5 pixels."""
    grid = GridSettings(points=3, crop_layers=1, crop_overlap=0.2, several=False)
    settings = EverythingSettings(grid, tasks=(), min_iou=-9.0, min_stability=0.0, overlap=Overlap(0.9))
    found = Everything(predictor, settings).find(picture(2, (100, 100)))
    in_crops = [one for one in found.regions if one.proposal.window]
    for one in in_crops:
        (x, y), (x1, y1, x2, y2) = one.prompt.points[0], one.box
        assert abs((x1 + x2) / 2 - x) <= 1 and abs((y1 + y2) / 2 - y) <= 1 and abs(x2 - x1 - 15) <= 3
        assert decode_rle(one.segmentation).shape == (100, 100)
    # Of the points that both columns of crops have, 50 alike, one is left; nothing comes near an inner side.
    assert sorted({round(one.prompt.points[0][0]) for one in in_crops}) == [10, 30, 50, 70, 90]
    assert len(in_crops) == 25


def test_masks_at_an_inner_side_of_a_crop_are_cut_off(predictor, discs):
    grid = GridSettings(points=6, crop_layers=1, crop_overlap=0.2, several=False)
    settings = EverythingSettings(grid, tasks=(), min_iou=-9.0, min_stability=0.0, overlap=Overlap(1.0))
    found = Everything(predictor, settings).find(picture(2, (100, 100)))
    own = {one.prompt.points[0][0] for one in found.regions if one.proposal.window == 1}
    # The first crop ends at 60, inside the picture; at 0 it ends with the picture.
    assert own == {5.0, 15.0, 25.0, 35.0, 45.0}


def test_given_proposals_are_looked_at_as_they_are(predictor):
    boxes = [(4.0, 6.0, 50.0, 40.0), (30.0, 2.0, 79.0, 30.0), (10.0, 10.0, 20.0, 20.0)]
    scores = (0.3, 0.9, None)
    given = [Proposal(RegionPrompt(box=b), score=s, source="x") for b, s in zip(boxes, scores, strict=True)]
    alike = EverythingSettings(overlap=Overlap(1.0), tasks=())
    found = Everything(predictor, alike).find(picture(), given)
    shown = predictor.predict(picture(), [one.prompt for one in given], ())
    assert {one.proposal.prompt.box for one in found.regions} == {
        box for box, own in zip(boxes, shown, strict=True) if own.mask.any()
    }
    for one in found.regions:
        own = shown[boxes.index(one.proposal.prompt.box)]
        assert one.candidate is None and mask_iou(decode_rle(one.segmentation), own.mask) > 0.99
        assert one.score == (one.proposal.score or one.iou)
    few = Everything(predictor, EverythingSettings(min_score=0.5, tasks=())).find(picture(), given)
    assert 0.3 not in [one.proposal.score for one in few.regions] and few.proposals == 2


def test_labels_of_a_list_become_categories(predictor, tmp_path):
    labels = ClosedSet(["cup", "ball", "key"])
    settings = EverythingSettings(GRID, max_regions=4, tasks=(), **ANYTHING)
    found = Everything(predictor, settings, labels).find(picture())
    numbers = {"cup": 4, "ball": 7, "key": 9}
    content = as_coco([picture_lines("a.png", found)], numbers, {})
    for one, annotation in zip(found.regions, content["annotations"], strict=True):
        assert {label.name for label in one.labels} == set(numbers)
        assert sum(label.confidence for label in one.labels) == pytest.approx(1)
        assert annotation["category_id"] == numbers[one.labels[0].name] and "caption" not in annotation
    assert {c["name"]: c["id"] for c in content["categories"]} == numbers
    assert draw_everything(picture(), found.regions).width > 80


def test_no_region_is_left(predictor):
    found = Everything(predictor, EverythingSettings(GRID, min_iou=1.0, min_stability=1.0)).find(picture())
    assert not found.regions and found.proposals == 9
    assert Everything(predictor, MASKS).find(picture(), []).regions == []
    content = as_coco([picture_lines("a.png", found)], None, {})
    assert len(content["images"]) == 1 and not content["annotations"]


@pytest.mark.parametrize(
    "wrong",
    [{"max_regions": 0}, {"min_area": 0}, {"stability_offset": 0.0}, {"tasks": ("sing",)}, {"languages": ("fr",)}],
)
def test_settings_that_are_none(wrong):
    with pytest.raises(PamKitError, match=next(iter(wrong)).rstrip("s") if "s" in wrong else "."):
        EverythingSettings(**wrong)


# Folders.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five pictures in two folders, one of which is none."""
    root = tmp_path_factory.mktemp("photos")
    (root / "sub").mkdir()
    for number, name in enumerate(("a.png", "b.png", "sub/a.png", "sub/c.png")):
        Image.fromarray(picture(number, (40, 40 + 8 * number))).save(root / name)
    (root / "bad.jpg").write_text("no picture")
    return root


NAMES = ["a.png", "b.png", "bad.jpg", "sub/a.png", "sub/c.png"]
ASKED = EverythingSettings(GRID, max_regions=3, tasks=("caption",), max_new_tokens=2, **ANYTHING)


def find_all(predictor, root, out, shard=None, stop=None, **facts) -> EverythingRun:
    made = EverythingRun(root, NAMES, out, {"model": "small"}, **facts)

    def progress(items, **_):
        yield from items if stop is None else items[:stop]

    made.find(lambda: Everything(predictor, ASKED), shard or Shard(), progress)
    return made


@pytest.fixture
def run(folder, tmp_path, predictor):
    """``run("out", shard, stop=2)``: find all of a part; with ``stop`` be killed behind so many pictures."""
    return lambda name="out", *rest, **facts: find_all(predictor, folder, tmp_path / name, *rest, **facts)


def content_of(run: EverythingRun) -> dict:
    path, _ = run.merge(None)
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, folder, predictor):
    """The merged file of a run that was not interrupted."""
    return find_all(predictor, folder, tmp_path_factory.mktemp("whole")).merge(None)[0]


@pytest.fixture
def uninterrupted(whole) -> dict:
    return json.loads(whole.read_text())


def test_the_merged_file_is_cocos(whole):
    coco = COCO(str(whole))
    assert [image["file_name"] for image in coco.dataset["images"]] == ["a.png", "b.png", "sub/a.png", "sub/c.png"]
    assert coco.getAnnIds() and len(coco.getAnnIds()) <= 12
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation).astype(bool)
        x, y, width, height = annotation["bbox"]
        assert mask.sum() == annotation["area"] and mask_box(mask) == (x, y, x + width, y + height)
        assert annotation["caption"] == annotation["texts"]["caption"]["en"]["text"] and 0 <= annotation["score"]
    (broken,) = coco.dataset["broken"]
    assert broken["file_name"] == "bad.jpg" and "is not a picture" in broken["reason"]
    # As boxes of a detector they are read again.
    found, _ = ProposalFile(whole).of("sub/c.png", 64, 40)
    assert len(found) == len(coco.getAnnIds(imgIds=[4]))


@pytest.mark.parametrize("cut", [0, 1, 500])
def test_a_killed_run_goes_on_to_the_same_end(run, uninterrupted, tmp_path, cut):
    stopped = run(stop=2)
    assert stopped.merge(None) is None
    part = tmp_path / "out" / "part_1_of_1.jsonl"
    before = part.read_bytes()
    part.write_bytes(before[: len(before) - cut])
    assert content_of(run()) == uninterrupted
    if not cut:
        assert part.read_bytes().startswith(before)  # nothing was made twice


def test_a_picture_whose_regions_were_cut_off_is_made_anew(run, uninterrupted, tmp_path):
    run(stop=1)
    part = tmp_path / "out" / "part_1_of_1.jsonl"
    lines = part.read_text().splitlines(keepends=True)
    part.write_text("".join(lines[:-1]))
    assert "a.png was not finished" in read_pictures(part)[1][0]
    assert content_of(run()) == uninterrupted


def test_parts_make_what_one_process_makes(run, uninterrupted):
    first = run(shard=Shard(1, 2))
    assert first.merge(None) is None
    assert content_of(run(shard=Shard(2, 2))) == uninterrupted
    # A run with another number of processes finds nothing left.
    assert content_of(run(shard=Shard(1, 3))) == uninterrupted


def test_pictures_without_regions_are_not_looked_at_again_and_broken_ones_are(predictor, folder, tmp_path, monkeypatch):
    root, path = tmp_path / "copy", tmp_path / "boxes.json"
    shutil.copytree(folder, root)
    path.write_text(
        json.dumps([{"image": "b.png", "box": [1, 1, 30, 30]}, {"image": "sub/c.png", "box": [90, 1, 99, 9]}])
    )
    made = find_all(predictor, root, tmp_path / "out", proposals=ProposalFile(path))
    (broken, other) = content_of(made)["broken"]
    assert broken["file_name"] == "bad.jpg" and "lies in it; are they" in other["reason"]
    assert [one["file_name"] for one in content_of(made)["images"]] == ["a.png", "b.png", "sub/a.png"]
    assert content_of(made)["images"][0]["notes"] == ["nothing is proposed for it"]
    Image.fromarray(picture()).save(root / "bad.jpg")
    looked, look = [], EverythingRun._look
    monkeypatch.setattr(EverythingRun, "_look", lambda self, load, name: looked.append(name) or look(self, load, name))
    find_all(predictor, root, tmp_path / "out", proposals=ProposalFile(path))
    assert looked == ["bad.jpg", "sub/c.png"]


def test_runs_that_are_no_good(run, folder, tmp_path):
    run(stop=1)
    with pytest.raises(PamKitError, match="its model is small, now it would be large"):
        EverythingRun(folder, NAMES, tmp_path / "out", {"model": "large"})
    with pytest.raises(PamKitError, match="holds no picture"):
        EverythingRun(folder, [], tmp_path / "new", {})
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps([{"image": "z.png", "box": [1, 1, 30, 30]}]))
    with pytest.raises(PamKitError, match=r"proposes nothing for any picture of .*photos0; it is about z.png"):
        run("new", proposals=ProposalFile(path))
    alone = EverythingRun(folder, ["bad.jpg"], tmp_path / "bad", {})
    alone.find(lambda: pytest.fail("no model is needed"), Shard())
    with pytest.raises(PamKitError, match="not one of 1 pictures could be looked through; the first: bad.jpg"):
        alone.merge(None)
    part = tmp_path / "out" / "part_1_of_1.jsonl"
    part.write_text("[]\n" + part.read_text())
    with pytest.raises(PamKitError, match=r"part_1_of_1.jsonl:1: expected a region or a picture"):
        run()


def test_pictures_are_drawn_where_that_is_asked(run, tmp_path):
    run(draw=True)
    assert Image.open(tmp_path / "out" / "pictures" / "sub" / "a.png.png").width > 40
