"""Labels of LVIS and PACO out of their categories: a decoder of which is known where it is right and where not."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from pam_kit.contracts import AnswerScores, GeneratedText
from pam_kit.data.label_lists import Label
from pam_kit.errors import PamKitError
from pam_kit.evaluation.benchmark_run import RunChoices
from pam_kit.evaluation.benchmarks.registry import find_benchmark
from pam_kit.evaluation.benchmarks.samples.write import write_samples
from pam_kit.evaluation.closed_set import LabelSettings, label_places
from pam_kit.evaluation.closed_set_benchmarks import BenchmarkLabels
from pam_kit.inference.closed_set import Calibration
from pam_kit.inference.predictor import RegionPredictor

# Of both benchmarks, and some that no region has.
NAMES = ["aerosol_can", "fish", "tree", "star", "cross", "ring", "bow_(weapon)"]
NAMES += [f"{name}:edge" for name in ("fish", "star", "ring")]
# The regions of the second picture are measured, those of the first and the third fit.
MEASURED = "000000000002"


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("samples")
    write_samples(root, ["lvis", "paco"])
    return root


@pytest.fixture
def data(samples, tmp_path) -> Path:
    """A copy with the files of categories, where one may look for them."""
    root = Path(shutil.copytree(samples, tmp_path / "data"))
    categories = json.dumps({"categories": [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)]})
    (root / "lvis" / "lvis_v1_val.json").write_text(categories)
    (root / "paco" / "annotations").mkdir()
    (root / "paco" / "annotations" / "paco_lvis_v1_val.json").write_text(categories)
    return root


@pytest.fixture
def knowing(samples, monkeypatch):
    """``knowing("lvis", wrong=("000000000002:3",))`` -> a predictor that is sure of the right label of all others.

    It sees nothing but its boxes, which tell the regions of the sample apart.
    """

    def read(predictor, images, prompts):
        assert all(image.ndim == 3 for image in images) and len(images) == len(prompts)
        return None, torch.tensor([[prompt.box] for own in prompts for prompt in own])

    monkeypatch.setattr("pam_kit.evaluation.closed_set.read_regions", read)

    def build(benchmark: str, wrong: tuple[str, ...] = ()) -> RegionPredictor:
        truth = {tuple(one.prompt["box"]): one for one in find_benchmark(benchmark).records(samples / benchmark)}

        def scores(prefix, questions, texts):
            rows = []
            for region in questions.region_index.tolist():
                one = truth[tuple(prefix[region, 0].tolist())]
                right = float("-inf") if one.id in wrong else 0.0
                rows.append([max(-30.0, right) if text == one.references[0] else -5.0 for text in texts])
            return AnswerScores(torch.tensor(rows), torch.ones(len(texts), dtype=torch.long))

        def generate(prefix, questions, most):
            found = [truth[tuple(prefix[region, 0].tolist())] for region in questions.region_index.tolist()]
            return [GeneratedText("A fish." if one.id in wrong else one.references[0], 0.0) for one in found]

        decoder = SimpleNamespace(score_answers=scores, generate=generate)
        return SimpleNamespace(model=SimpleNamespace(decoder=decoder), sha256="f" * 64)

    return build


def choices(data: Path, out: Path, **changes) -> RunChoices:
    return RunChoices(data, out, **changes)


@pytest.mark.parametrize("name", ["lvis", "paco"])
def test_all_categories_are_chosen_from_and_pictures_are_halved(knowing, data, tmp_path, name):
    seen = []
    regions = BenchmarkLabels(name, choices(data, tmp_path / "out"), LabelSettings())
    table = regions.evaluate(
        knowing(name, wrong=(f"{MEASURED}:3",)), lambda items, **facts: seen.append(facts) or list(items)
    )
    assert seen == [{"total": 3, "desc": f"{name} / box"}]
    row = table[f"{name} / box"]
    assert row["top 1"] == row["top 5"] == pytest.approx(2 / 3)  # the last of ten is not of the first five
    assert row["free text"] == pytest.approx(2 / 3)
    assert (row["labels"], row["n"], row["n fitted"], row["n unlisted"]) == (len(NAMES), 3, 6, 0)
    # Nothing is wrong in the half that fits, so confidences get as sharp as they may.
    assert row["temperature"] == pytest.approx(0.01)
    # Two are certain and right; one is divided among nine labels, and wrong.
    assert row["ECE calibrated"] == pytest.approx(1 / 3 / 9)
    assert json.loads((tmp_path / "out" / "labels.json").read_text()) == table
    text = (tmp_path / "out" / "labels.md").read_text()
    assert f"- {len(NAMES)} labels: the categories of {data / name}" in text and "- 9 regions, variant osprey" in text
    fitted = Calibration.load(tmp_path / "out" / "calibration" / f"{name}-box.json")
    assert fitted.labels == tuple(NAMES) and fitted.model == "f" * 64 and fitted.settings == regions.chosen.settings


def test_a_list_of_ones_own_and_what_it_lacks(knowing, data, tmp_path):
    labels = [Label.plain(name) for name in NAMES if name != "star"]
    regions = BenchmarkLabels("lvis", choices(data, tmp_path / "out"), LabelSettings(labels))
    row = regions.evaluate(knowing("lvis"))["lvis / box"]
    assert (row["labels"], row["n"], row["n fitted"], row["n unlisted"]) == (len(NAMES) - 1, 1, 6, 2)
    assert row["top 1"] == 1 and not any("categories" in note for note in regions.notes)


def test_a_trial_says_that_it_is_one(knowing, data, tmp_path):
    regions = BenchmarkLabels("lvis", choices(data, tmp_path / "out", limit=4), LabelSettings())
    row = regions.evaluate(knowing("lvis"))["lvis / box"]
    assert (row["n fitted"], row["n"]) == (3, 1)
    assert "- only 4 of 9 regions: not a number to compare" in (tmp_path / "out" / "labels.md").read_text()


def test_what_cannot_be_read_is_left_out_and_told(knowing, data, tmp_path):
    file = data / "lvis" / "lvis_val_1k_category.json"
    pictures = json.loads(file.read_text())
    # A fourth picture, which is smaller than the file says.
    pictures.append(pictures[0] | {"file_name": "000000000004.jpg"})
    file.write_text(json.dumps(pictures))
    (data / "lvis" / "val2017" / "000000000003.jpg").write_bytes(b"no picture")
    Image.new("RGB", (50, 60)).save(data / "lvis" / "val2017" / "000000000004.jpg")
    regions = BenchmarkLabels("lvis", choices(data, tmp_path / "out"), LabelSettings())
    row = regions.evaluate(knowing("lvis"))["lvis / box"]
    # All three of the third picture, and of the fourth the two whose boxes begin within it but end outside.
    broken = [json.loads(line) for line in (tmp_path / "out" / "broken_samples.jsonl").read_text().splitlines()]
    assert [one["source"] for one in broken] == [f"00000000000{i}:{n}" for i, n in ((3, 1), (3, 2), (3, 3))] + [
        f"000000000004:{n}" for n in (1, 3)
    ]
    assert row["n"] + row["n fitted"] == 9 + 3 - 5
    assert any(note.startswith("5 regions cannot be read and are left out") for note in regions.notes)
    assert "5 regions cannot be read" in (tmp_path / "out" / "labels.md").read_text()


def test_a_name_means_its_own_label_whatever_is_said_for_others():
    labels = [Label("bottle_cap", ("bottle cap", "cap")), Label("cap", ("cap",)), Label("lid", ("lid", "bottle cap"))]
    assert label_places(labels) == {"bottle_cap": 0, "cap": 1, "lid": 2, "bottle cap": 0}


def test_what_is_missing_is_named_with_its_place(data, tmp_path):
    (data / "lvis" / "lvis_v1_val.json").unlink()
    for name, changes, settings, told in (
        ("lvis", {}, {}, "none of lvis_v1_val.json, lvis_v1_train.json is in .*lvisdataset.org.*--labels FILE"),
        ("vg", {}, {}, "vg has no list of categories; choose from lvis, paco"),
        ("paco", {}, {"language": "zh"}, "paco has no region in zh; its languages are en"),
        ("paco", {"prompt_type": "points", "variant": "osprey"}, {}, "osprey of paco has no points prompts"),
    ):
        with pytest.raises(PamKitError, match=told):
            BenchmarkLabels(name, choices(data, tmp_path, **changes), LabelSettings(**settings))
