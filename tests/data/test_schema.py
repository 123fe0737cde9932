"""Lines to samples: every defect by its reason, pictures made on the spot, writing and reading back."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from pam_kit.contracts import Region, RegionPrompt, RegionSample
from pam_kit.data.jsonl import JsonlDataset
from pam_kit.data.masks import encode_rle
from pam_kit.data.pictures import read_picture
from pam_kit.data.samples import load_sample, write_jsonl
from pam_kit.data.schema import parse_line, record_line
from pam_kit.errors import BrokenSample, PamKitError

WIDTH, HEIGHT = 12, 8
MASK = np.zeros((HEIGHT, WIDTH), dtype=bool)
MASK[2:6, 3:9] = True


def pixels(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def region(**changes) -> dict:
    entry = {"id": "cup", "box": [3, 2, 9, 6], "mask": encode_rle(MASK), "texts": {"recognize": {"en": "cup"}}}
    return {key: value for key, value in (entry | changes).items() if value is not None}


def sample(*regions, **changes) -> dict:
    entry = {"image": "good.png", "width": WIDTH, "height": HEIGHT, "regions": list(regions) or [region()]}
    return {key: value for key, value in (entry | changes).items() if value is not None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    Image.fromarray(pixels()).save(folder / "good.png")
    Image.fromarray(pixels(1, 64, 64)).save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "truncated.png").write_bytes((folder / "good.png").read_bytes()[:-40])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("404 Not Found")
    Image.fromarray(np.full((HEIGHT, WIDTH), 40000, dtype=np.uint16)).save(folder / "depth.png")
    Image.new("1", (10000, 9000)).save(folder / "bomb.png")
    Image.new("1", (20000, 9000)).save(folder / "great_bomb.png")
    return folder


def load(entry: dict | str, folder):
    line = entry if isinstance(entry, str) else json.dumps(entry)
    return load_sample(parse_line(line, "train.jsonl:17"), folder)


def test_a_whole_line_becomes_a_sample(folder):
    entry = sample(
        region(points=[[4, 3], [0.5, 0.5]], labels=[1, 0], prompt_mask=encode_rle(MASK), attributes={"colour": "red"}),
        {"id": "2", "mask": [[0, 0, 4, 0, 4, 4, 0, 4]]},
    )
    found = load(entry, folder)
    assert found.source == "train.jsonl:17" and np.array_equal(found.image, pixels())
    first, second = found.regions
    assert first.prompt.box == (3, 2, 9, 6)
    assert first.prompt.points == ((4, 3), (0.5, 0.5)) and first.prompt.labels == (1, 0)
    assert np.array_equal(first.prompt.mask, MASK) and np.array_equal(first.mask, MASK)
    assert first.texts == {"recognize": {"en": "cup"}} and first.attributes == {"colour": "red"}
    assert second.prompt is None and second.texts == {}
    assert second.mask[:4, :4].all() and second.mask.sum() == 16


LONG = "[" * 100_000
WRONG_SIZE = encode_rle(np.ones((HEIGHT, WIDTH + 1), dtype=bool))
EMPTY_MASK = encode_rle(np.zeros((HEIGHT, WIDTH), dtype=bool))
CASES = {
    "missing picture": (sample(image="gone.png"), "'.*gone.png' does not exist"),
    "null in the path": (sample(image="a\0b.png"), "null"),
    "empty picture": (sample(image="empty.jpg"), r"is empty \(0 bytes\)"),
    "no picture": (sample(image="text.jpg"), "is not a picture"),
    "truncated JPEG": (sample(image="truncated.jpg"), "cannot be read: .*truncated"),
    "truncated PNG": (sample(image="truncated.png"), "cannot be read"),
    "a folder": (sample(image="."), "cannot be read: .*directory"),
    "16 bits": (sample(image="depth.png"), "mode I;16; convert it to 8 bits"),
    "bomb": (sample(image="bomb.png"), "too large: 10000x9000 pixels"),
    "great bomb": (sample(image="great_bomb.png"), "too large"),
    "wrong size": (sample(width=13), "declared as 13x8 pixels, but the picture has 12x8"),
    "turned size": (sample(width=HEIGHT, height=WIDTH), "8x12 .* has 12x8; .*EXIF rotation"),
    "half a size": (sample(width=None), "given together"),
    "size of text": (sample(width="12"), "width must be a number of pixels, not '12'"),
    "size of nothing": (sample(height=0), "height must be a number"),
    "mask of another size": (
        sample(region(mask=WRONG_SIZE)),
        "region 'cup': the mask is 13x8 pixels, the picture 12x8",
    ),
    "prompt mask of another size": (sample(region(prompt_mask=WRONG_SIZE)), "the mask is 13x8"),
    "empty mask": (sample(region(mask=EMPTY_MASK)), "the mask is empty"),
    "empty prompt mask": (sample(region(prompt_mask=EMPTY_MASK)), "the mask is empty"),
    "malformed RLE": (sample(region(mask={"size": [8, 12], "counts": "1"})), "runs cover 1 pixels"),
    "malformed polygon": (sample(region(mask=[[1, 1, 2, 2]])), "three corners"),
    "mask of text": (sample(region(mask="x")), "mask must be an RLE or a list of polygons, not 'x'"),
    "box outside": (sample(region(box=[3, 2, 13, 6])), "box .* does not fit a picture of 12x8"),
    "negative box": (sample(region(box=[-1, 2, 9, 6])), "box .* does not fit"),
    "box of sizes": (
        sample(region(box=[9, 2, 3, 4])),
        r"box \[9, 2, 3, 4\] is not .* looks like \[x, y, width, height",
    ),
    "box of three": (sample(region(box=[9, 2, 3])), "box must be"),
    "box of text": (sample(region(box=["1", 2, 3, 4])), "box must be"),
    "box of truth": (sample(region(box=[True, 2, 3, 4])), "box must be"),
    "box without end": (
        '{"image": "good.png", "regions": [{"id": "a", "box": [0, 0, 1e999, 1]}]}',
        "box must be .* inf",
    ),
    "NaN": ('{"image": "good.png", "regions": [{"id": "a", "box": [0, 0, NaN, 1]}]}', "NaN is not JSON"),
    "point outside": (sample(region(points=[[4, 9]], labels=[1])), r"point \(4, 9\) lies outside"),
    "point of one": (sample(region(points=[[4]], labels=[1])), "point must be"),
    "points of numbers": (sample(region(points=4, labels=[1])), "points must be a list"),
    "points without labels": (sample(region(points=[[4, 3]])), "1 points but 0 labels"),
    "labels without points": (sample(region(labels=[1])), "0 points but 1 labels"),
    "label 2": (sample(region(points=[[4, 3]], labels=[2])), "neither 1 .* nor 0"),
    "label of text": (sample(region(points=[[4, 3]], labels=["1"])), "labels must be"),
    "negative only": (sample(region(box=None, points=[[4, 3]], labels=[0])), "only negative points"),
    "no supervision": (sample(region(mask=None, texts=None)), "no supervision"),
    "no prompt": (sample(region(mask=None, box=None)), "nothing points at it"),
    "empty text": (sample(region(texts={"recognize": {"en": " "}})), "recognize.en must be a non-empty text"),
    "text of number": (sample(region(texts={"recognize": {"en": 3}})), "non-empty text, not 3"),
    "half a character": (sample(region(texts={"recognize": {"en": "a\ud83d"}})), "lone surrogate"),
    "unknown task": (sample(region(texts={"label": {"en": "cup"}})), "unknown task 'label'; .*recognize"),
    "unknown language": (sample(region(texts={"caption": {"cn": "杯"}})), "unknown language 'cn'; .*en, zh"),
    "text without language": (sample(region(texts={"caption": "cup"})), "language -> text"),
    "texts of text": (sample(region(texts="cup")), "texts must be a JSON object"),
    "unknown region key": (sample(region(bbox=[1, 2, 3, 4])), "unknown key 'bbox'; the keys are id, box"),
    "unknown key": (sample(file="x"), "unknown key 'file'; the keys are image"),
    "no id": (sample(region(id=None)), "region 0: id must be"),
    "number as id": (sample(region(id=7)), "region 7: id must be a non-empty text"),
    "two ids": (sample(region(), region()), "two regions have the id 'cup'"),
    "frame of a picture": (sample(region(frame=1)), "frame 1"),
    "negative frame": (sample(region(frame=-1)), "frame must be an index"),
    "no regions": (sample(regions=[]), "at least one region"),
    "region of text": (sample("cup"), "region 0 must be a JSON object"),
    "attributes of text": (sample(region(attributes="red")), "attributes must be a JSON object"),
    "no image": (sample(image=None), "give either image"),
    "image and frames": (sample(frames=["a.jpg"]), "give either image"),
    "no frames": (sample(image=None, frames=[]), "at least one path"),
    "a clip": (sample(image=None, frames=["a.jpg", "b.jpg"]), "a clip of 2 frames; this dataset reads pictures"),
    "invalid JSON": ('{"image": "good.png", ', "invalid JSON: .* column"),
    "deep JSON": (LONG, "JSON"),
    "long number": ('{"width": ' + "9" * 5000 + "}", "unreadable JSON"),
    "not an object": ("[1]", "a line is a JSON object, not list"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", CASES)
def test_every_defect_is_a_broken_sample_with_its_reason(folder, name):
    entry, reason = CASES[name]
    with pytest.raises(BrokenSample, match=reason) as caught:
        load(entry, folder)
    assert caught.value.source == "train.jsonl:17"
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.source, copy.reason) == (caught.value.source, caught.value.reason)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, lambda a: a), (3, lambda a: np.rot90(a, 2)), (6, lambda a: np.rot90(a, -1)), (8, np.rot90), (2, np.fliplr)],
)
def test_exif_orientation_is_applied(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels()).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "turned.png", "here"), upright(pixels()))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    Image.fromarray(pixels()).convert(mode).save(tmp_path / f"picture.{suffix}")
    picture = read_picture(tmp_path / f"picture.{suffix}", "here")
    assert picture.shape == (HEIGHT, WIDTH, 3) and picture.dtype == np.uint8
    assert picture.flags.writeable
    if mode in ("L", "LA"):
        grey = np.asarray(Image.fromarray(pixels()).convert("L"))
        assert np.array_equal(picture, np.stack([grey] * 3, axis=-1))
    if mode == "RGBA":
        assert np.array_equal(picture, pixels())


def test_an_unexpected_error_is_not_swallowed(folder, monkeypatch):
    def out_of_memory(*_):
        raise MemoryError("no more")

    monkeypatch.setattr("pam_kit.data.pictures.ImageOps.exif_transpose", out_of_memory)
    with pytest.raises(MemoryError):
        load(sample(), folder)


def test_box_tolerance_cuts_a_box_to_the_picture(folder):
    record = parse_line(json.dumps(sample(region(box=[-0.5, 1, WIDTH + 1.5, HEIGHT]))), "here")
    assert load_sample(record, folder, box_tolerance=2).regions[0].prompt.box == (0, 1, WIDTH, HEIGHT)
    with pytest.raises(BrokenSample, match="does not fit"):
        load_sample(record, folder, box_tolerance=1)


@pytest.fixture
def written():
    prompt = RegionPrompt(box=(1.5, 2, 9, 7), points=((2.25, 3), (8, 1)), labels=(1, 0), mask=MASK)
    texts = {"recognize": {"en": "cup", "zh": "杯子"}, "caption": {"en": 'a "red" cup\nof tea'}}
    return [
        RegionSample("a", pixels(3), [Region("1", prompt, MASK, texts, {"colour": "red"}), Region("2", None, ~MASK)]),
        RegionSample("b", pixels(4, 5, 7), [Region("1", RegionPrompt(box=(0, 0, 7, 5)), None, texts)]),
    ]


def test_written_samples_are_read_back_and_can_be_moved(tmp_path, written):
    assert write_jsonl(written, tmp_path / "set" / "train.jsonl", tmp_path / "set" / "pictures") == 2
    (tmp_path / "set").rename(tmp_path / "moved")
    dataset = JsonlDataset(str(tmp_path / "moved" / "train.jsonl"))
    assert len(dataset) == 2
    for found, given in zip([dataset[0], dataset[1]], written, strict=True):
        assert np.array_equal(found.image, given.image)
        for one, other in zip(found.regions, given.regions, strict=True):
            assert (one.id, one.texts, one.attributes) == (other.id, other.texts, other.attributes)
            assert (one.mask is None) == (other.mask is None)
            assert one.mask is None or np.array_equal(one.mask, other.mask)
            assert (one.prompt is None) == (other.prompt is None)
            if one.prompt is not None:
                ours, theirs = one.prompt, other.prompt
                assert (ours.box, ours.points, ours.labels) == (theirs.box, theirs.points, theirs.labels)
    assert np.array_equal(dataset[0].regions[0].prompt.mask, MASK)
    assert [*dataset.texts()] == ["cup", "杯子", 'a "red" cup\nof tea'] * 2


def test_two_files_may_share_a_picture_folder(tmp_path, written):
    for split, samples in (("train", written[:1]), ("val", written[1:])):
        write_jsonl(samples, tmp_path / f"{split}.jsonl", tmp_path / "pictures")
    assert np.array_equal(JsonlDataset(str(tmp_path / "train.jsonl"))[0].image, written[0].image)


@pytest.mark.parametrize(
    ("bad", "error", "reason"),
    [
        (Region("1", None, np.ones((2, 2), bool)), BrokenSample, "shape"),
        (Region("1", RegionPrompt(box=(0, 0, 99, 1)), MASK), BrokenSample, "does not fit"),
        (Region("1", None, MASK, {"caption": {"en": ""}}), BrokenSample, "non-empty text"),
        (Region("1", None, MASK, {}, {"area": np.float32(1)}), PamKitError, "attributes"),
        (Region("1", None, MASK, {}, {"area": float("nan")}), PamKitError, "attributes"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, bad, error, reason):
    with pytest.raises(error, match=reason):
        write_jsonl([RegionSample("x", pixels(), [bad])], tmp_path / "out.jsonl", tmp_path)
    assert not (tmp_path / "out.jsonl").exists()


def test_clips_round_trip_as_records():
    entry = {"frames": ["v/1.jpg", "v/2.jpg"], "regions": [region(frame=1)]}
    record = parse_line(json.dumps(entry), "clips.jsonl:1")
    assert record.image is None and record.frames == ("v/1.jpg", "v/2.jpg") and record.regions[0].frame == 1
    assert parse_line(record_line(record), "clips.jsonl:1") == record
