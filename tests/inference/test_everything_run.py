"""A folder of pictures gone through: one that fails stops no other, and drawings are made where they are missing."""

import json
import re
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from pam_kit.contracts import RegionPrompt
from pam_kit.data.masks import encode_rle
from pam_kit.errors import PamKitError
from pam_kit.inference.closed_set import RankedLabel
from pam_kit.inference.everything_picture import draw_everything, draw_lines
from pam_kit.inference.everything_run import EverythingRun, picture_lines
from pam_kit.inference.found_regions import FoundRegion, GeneratedText, PictureRegions
from pam_kit.inference.proposal_files import ProposalFile
from pam_kit.inference.proposals import Proposal
from pam_kit.inference.shard import Shard

NAMES = ["a.png", "b.png", "sub/c.png"]
BLUE = {name: 40 * number for number, name in enumerate(NAMES)}


def found_in(image: np.ndarray) -> PictureRegions:
    mask = np.zeros(image.shape[:2], dtype=bool)
    mask[5:20, 10:30] = True
    region = FoundRegion(
        proposal=Proposal(RegionPrompt(box=(10, 5, 30, 20)), source="x"),
        candidate=None,
        prompt=RegionPrompt(box=(10, 5, 30, 20)),
        segmentation=encode_rle(mask),
        area=300,
        box=(10.0, 5.0, 30.0, 20.0),
        iou=0.75,
        stability=1.0,
        object_score=0.5,
        texts={"caption": {"en": GeneratedText("a cup", 0.5), "zh": GeneratedText("beizi", 0.5)}},
        labels=(RankedLabel("cup", -0.5, 0.875),),
    )
    return PictureRegions(image.shape[1], image.shape[0], [region], 1)


class Finder:
    """Finds one region in each picture, but fails at those whose blue is told."""

    def __init__(self, failing: dict[int, Exception]):
        self.failing, self.looked = failing, []

    def find(self, image, proposals=None):
        self.looked.append(int(image[0, 0, 2]))
        if error := self.failing.get(self.looked[-1]):
            raise error
        return found_in(image)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name, blue in BLUE.items():
        Image.new("RGB", (80, 48), (9, 9, blue)).save(folder / name)
    return folder


@pytest.fixture
def run(root, tmp_path):
    return partial(EverythingRun, root, NAMES, tmp_path / "out", {"model": "small"})


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PamKitError("there is not enough memory for a single region: x"), "b.png: there is not enough memory for a"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: y\nz"), "size, so make it smaller: DefaultCPU.*: y$"),
        (MemoryError(), "make it smaller: MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory"), "make it smaller: CUDA out of memory"),
    ],
)
def test_a_picture_that_fails_is_told_and_tried_again(run, error, reason):
    finder = Finder({BLUE["b.png"]: error})
    made = run()
    made.find(lambda: finder, Shard())
    assert finder.looked == list(BLUE.values()), "the pictures behind it are looked at"
    path, pictures = made.merge(None)
    assert [picture.name for picture in pictures if picture.broken] == ["b.png"] and len(pictures) == 3
    (told,) = json.loads(path.read_text())["broken"]
    assert re.search(reason, told["reason"]), told["reason"]
    again = Finder({})
    notes = run().find(lambda: again, Shard())
    assert again.looked == [BLUE["b.png"]] and notes == ["1 pictures that failed are tried again"]
    assert not json.loads(run().merge(None)[0].read_text())["broken"]


def test_what_is_no_fault_of_a_picture_ends_the_run(run):
    with pytest.raises(RuntimeError, match="device-side assert"):
        run().find(lambda: Finder({0: RuntimeError("device-side assert")}), Shard())

    def unloadable():
        raise PamKitError("there is no run folder")

    with pytest.raises(PamKitError, match="no run folder"):
        run().find(unloadable, Shard())
    assert not run().known()


def test_a_finished_folder_is_drawn_without_the_model(run, root, tmp_path):
    finder = Finder({})
    run().find(lambda: finder, Shard())
    drawings = tmp_path / "out" / "pictures"
    assert not drawings.exists()
    none = lambda: pytest.fail("no model is needed")  # noqa: E731
    run(draw=True).find(none, Shard(2, 2))
    assert [path.name for path in drawings.iterdir()] == ["b.png.png"], "a part draws its own pictures"
    run(draw=True, languages=("en", "zh")).find(none, Shard())
    drawn = {path.relative_to(drawings).as_posix() for path in drawings.rglob("*.png")}
    assert drawn == {f"{name}.png" for name in NAMES}
    image = np.asarray(Image.open(root / "a.png"))
    fresh = draw_everything(image, found_in(image).regions, ("en", "zh"))
    assert np.array_equal(np.asarray(Image.open(drawings / "a.png.png")), np.asarray(fresh))
    before = (drawings / "a.png.png").stat().st_mtime_ns
    (drawings / "b.png.png").unlink()
    Image.new("RGB", (8, 8)).save(root / "b.png")
    (note,) = run(draw=True).find(none, Shard())
    assert note.startswith("b.png is not drawn: ") and (drawings / "a.png.png").stat().st_mtime_ns == before


def test_what_is_kept_is_drawn_as_what_was_found():
    image = np.zeros((48, 80, 3), dtype=np.uint8)
    found = found_in(image)
    assert draw_lines(image, picture_lines("a.png", found)).tobytes() == draw_everything(image, found.regions).tobytes()


def test_proposals_go_to_the_picture_that_they_are_about(run, tmp_path, root):
    path = tmp_path / "boxes.json"
    path.write_text(
        json.dumps([{"image": "other/c.png", "box": [1, 1, 30, 30]}, {"image": "a.png", "box": [1, 2, 3, 4]}])
    )
    given = {}

    class Listening(Finder):
        def find(self, image, proposals=None):
            given[int(image[0, 0, 2])] = [one.prompt.box for one in proposals]
            return super().find(image)

    run(proposals=ProposalFile(path)).find(lambda: Listening({}), Shard())
    assert given == {0: [(1, 2, 3, 4)], 40: [], 80: []}
    path.write_text(json.dumps([{"image": "a.png", "box": [1, 2, 3, 4]}]))
    with pytest.raises(PamKitError, match=r"says a.png, which may be x/a.png or y/a.png"):
        EverythingRun(root, ["x/a.png", "y/a.png"], tmp_path / "new", {}, ProposalFile(path))
