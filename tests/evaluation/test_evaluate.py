"""An evaluation and the files it leaves, with a predictor that knows the truth in the place of a model."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pam_kit.contracts import GeneratedText, Region, RegionPrompt, RegionSample
from pam_kit.data.micro.dataset import MicroDataset
from pam_kit.data.samples import write_jsonl
from pam_kit.errors import PromptError, RecipeError
from pam_kit.evaluation.evaluate import evaluate
from pam_kit.inference.result import RegionPrediction
from pam_kit.sections import ComponentChoice, EvaluateSection, SplitChoice

MICRO = {"num_samples": 5, "image_size": 64, "seed": 3}


class Oracle:
    """Predicts what the dataset says of the picture it is shown; remembers what it was asked."""

    def __init__(self, samples):
        self.samples = {sample.image.tobytes(): sample for sample in samples}
        self.asked = []

    def predict_batch(self, images, prompts, tasks, languages, max_new_tokens):
        self.asked.append((len(images), prompts, tuple(tasks), tuple(languages), max_new_tokens))
        return [
            [self._known(*pair, tasks, languages) for pair in zip(self._regions(image), own, strict=True)]
            for image, own in zip(images, prompts, strict=True)
        ]

    def _regions(self, image):
        return self.samples[image.tobytes()].regions

    def _known(self, region, prompt, tasks, languages):
        texts = {
            task: {language: GeneratedText(region.texts[task][language], 0.75) for language in languages}
            for task in tasks
        }
        return RegionPrediction(prompt, region.mask, 0.9, 0.8, texts)


def split(**changes) -> SplitChoice:
    return SplitChoice(**{"dataset": ComponentChoice("micro", dict(MICRO))} | changes)


def samples() -> list[RegionSample]:
    dataset = MicroDataset(**MICRO)
    return [dataset[index] for index in range(len(dataset))]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Two splits, one of them under two prompts; the folder, the table and the oracle."""
    folder = tmp_path_factory.mktemp("evaluation") / "new" / "folder"
    oracle = Oracle(samples())
    splits = {"held_out": split(prompts=["box", "point"]), "some": split(limit=2, tasks=["describe"], languages=["zh"])}
    section = EvaluateSection(splits=splits, batch_size=2, max_new_tokens=17, pictures=3)
    return folder, evaluate(oracle, section, folder), oracle


def test_the_table_has_a_column_for_every_split_and_prompt(evaluated):
    _, table, _ = evaluated
    assert list(table) == ["held_out / box", "held_out / point", "some / box"]
    regions = [len(sample.regions) for sample in samples()]
    assert table["held_out / box"]["mask IoU"]["n"] == sum(regions)
    assert table["some / box"]["mask IoU"]["n"] == sum(regions[:2])
    assert table["held_out / point"]["label zh"]["mean"] == table["some / box"]["describe relation zh"]["mean"] == 1
    assert "caption exact en" not in table["some / box"] and "caption exact en" in table["held_out / box"]


def test_what_the_predictor_was_asked(evaluated):
    _, _, oracle = evaluated
    assert [number for number, *_ in oracle.asked] == [2, 2, 1, 2, 2, 1, 2]
    assert {asked[2:] for asked in oracle.asked[:6]} == {(("recognize", "caption"), ("en", "zh"), 17)}
    assert oracle.asked[6][2:] == (("describe",), ("zh",), 17)
    boxes, points = oracle.asked[0][1][0], oracle.asked[3][1][0]
    assert all(prompt.box and not prompt.points for prompt in boxes)
    for prompt, region in zip(points, samples()[0].regions, strict=True):
        ((x, y),) = prompt.points
        assert prompt.box is None and region.mask[int(y), int(x)]


def test_the_scores_are_strict_json(evaluated):
    folder, table, _ = evaluated

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    read = json.loads((folder / "scores.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert read["held_out / box"]["mask IoU"] == table["held_out / box"]["mask IoU"]
    assert read["held_out / box"]["majority label"]["se"] is None
    assert read.keys() == table.keys()


def test_the_scores_as_a_markdown_table(evaluated):
    folder, table, _ = evaluated
    lines = (folder / "scores.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "| score | held_out / box | held_out / point | some / box |"
    assert "| mask IoU | 100.0 ± 0.0 | 100.0 ± 0.0 | 100.0 ± 0.0 |" in lines
    assert all(line.count("|") == 5 for line in lines)


def test_every_prediction_is_a_line(evaluated):
    folder, _, _ = evaluated
    assert {path.name for path in (folder / "predictions").iterdir()} == {
        "held_out-box.jsonl",
        "held_out-point.jsonl",
        "some-box.jsonl",
    }
    lines = [json.loads(line) for line in (folder / "predictions" / "held_out-box.jsonl").read_text().splitlines()]
    expected = [(sample, region) for sample in samples() for region in sample.regions]
    for line, (sample, region) in zip(lines, expected, strict=True):
        assert (line["source"], line["region"], line["references"]) == (sample.source, region.id, region.texts)
        assert np.array_equal(coco_mask.decode(line["segmentation"]).astype(bool), region.mask)
        assert line["area"] == region.mask.sum() and line["iou"] == 0.9
        assert line["texts"]["caption"]["zh"] == {"text": region.texts["caption"]["zh"], "score": 0.75}


def test_pictures_are_drawn_per_task(evaluated):
    folder, _, _ = evaluated
    names = {path.name for path in (folder / "pictures").iterdir()}
    assert names == {
        *(f"held_out-{kind}-{task}.png" for kind in ("box", "point") for task in ("recognize", "caption")),
        "some-box-describe.png",
    }
    for name in names:
        with Image.open(folder / "pictures" / name) as picture:
            picture.load()
            tiles = 2 if name.startswith("some") else 3
            assert picture.width >= tiles * 512


def test_broken_samples_are_left_out_and_listed(tmp_path):
    good = [RegionSample(f"made:{i}", sample.image, sample.regions) for i, sample in enumerate(samples()[:2])]
    path = tmp_path / "val.jsonl"
    write_jsonl(good, path, tmp_path / "pictures")
    path.write_text("{broken\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    choice = ComponentChoice("jsonl", {"path": str(path)})
    section = EvaluateSection(splits={"val": split(dataset=choice, prompts=["box", "mask"], limit=2)}, pictures=0)
    table = evaluate(Oracle(good), section, tmp_path / "out")
    assert table["val / mask"]["mask IoU"]["n"] == len(good[0].regions)
    listed = [json.loads(line) for line in (tmp_path / "out" / "broken_samples.jsonl").read_text().splitlines()]
    assert [entry["source"] for entry in listed] == ["val.jsonl:1"] and "invalid JSON" in listed[0]["reason"]
    assert not list((tmp_path / "out" / "pictures").iterdir())


def test_a_prompt_that_cannot_be_made_names_the_region(tmp_path):
    prompt = RegionPrompt(box=(1, 1, 9, 9))
    bare = RegionSample("made:0", samples()[0].image, [Region("cup-7", prompt, texts={"recognize": {"en": "cup"}})])
    write_jsonl([bare], tmp_path / "val.jsonl", tmp_path / "pictures")
    choice = ComponentChoice("jsonl", {"path": str(tmp_path / "val.jsonl")})
    section = EvaluateSection(splits={"val": split(dataset=choice, prompts=["point"])})
    with pytest.raises(PromptError, match="val.jsonl:1: region cup-7 has no mask, so no point can be drawn from it"):
        evaluate(Oracle([bare]), section, tmp_path / "out")


def test_videos_need_a_backbone_that_tracks_and_switches_that_exist(tmp_path):
    oracle, clips = Oracle(samples()), ComponentChoice("clips", {"path": str(tmp_path / "nowhere.jsonl")})
    oracle.model = SimpleNamespace(backbone=SimpleNamespace(tracks=False))
    videos = split(dataset=ComponentChoice("micro_videos", {}), streams=["carry+histroy"])
    splits = {"good": split(limit=1), "walks": split(dataset=clips), "streams": videos}
    with pytest.raises(RecipeError) as caught:
        evaluate(oracle, EvaluateSection(splits=splits), tmp_path / "out")
    reason = "has frames to follow a region through, which the backbone SimpleNamespace does not do"
    assert [problem.split(";")[0] for problem in caught.value.problems] == [
        f"evaluate.splits.walks: the dataset clips {reason}",
        f"evaluate.splits.streams: the dataset micro_videos {reason}",
        "evaluate.splits.streams.streams: 'histroy' is no switch of a stream",
    ]
    assert oracle.asked == [] and not (tmp_path / "out").exists()


def test_progress_wraps_the_samples(tmp_path):
    seen = []

    def progress(items, total, desc):
        seen.append((total, desc))
        return items

    section = EvaluateSection(splits={"val": split(limit=3)}, batch_size=2, pictures=0)
    evaluate(Oracle(samples()), section, tmp_path, progress)
    assert seen == [(3, "val / box")]
