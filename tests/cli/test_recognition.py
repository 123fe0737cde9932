"""recognize, evaluate-labels and probe on a command line, with a small random model."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from pam_kit.cli import main
from pam_kit.evaluation.benchmarks.samples.write import write_samples

HELD_OUT = """\
extends: {base}
evaluate:
  max_new_tokens: 3
  batch_size: 2
  pictures: 1
  splits:
    held_out:
      dataset: {{name: micro, num_samples: 2, seed: 7, image_size: 64, max_objects: 3}}
      tasks: [recognize]
      languages: [en]
"""


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "grey.png"
    Image.linear_gradient("L").convert("RGB").resize((96, 64)).save(path)
    return path


@pytest.fixture
def labels(tmp_path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("red square\nblue_ring\ncup\tmug\tteacup\n", encoding="utf-8")
    return path


@pytest.fixture
def recipe(run, tmp_path) -> Path:
    path = tmp_path / "held_out.yaml"
    path.write_text("# Held-out pictures for tests.\n" + HELD_OUT.format(base=run / "small.yaml"), encoding="utf-8")
    return path


def called(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    return code, told.out, told.err


def test_labels_of_regions_are_printed(run, picture, labels, capsys):
    call = ("recognize", picture, "--checkpoint", run, "--device", "cpu", "--labels", labels, "--top", 2)
    code, text, _ = called(capsys, *call, "--box", "5,5,40,40", "--point", "60,20", "70,30,0")
    lines = text.splitlines()
    assert code == 0 and [line for line in lines if line.startswith("region")] == ["region 1:", "region 2:"]
    assert len(lines) == 2 * 3 and " %  " in lines[1] and "(log p -" in lines[1]
    code, text, _ = called(capsys, *call, "--box", "5,5,40,40", "--json")
    (region,) = json.loads(text)
    assert code == 0 and region["prompt"] == {"box": [5, 5, 40, 40]} and len(region["labels"]) == 2
    first, second = region["labels"]
    assert set(first) == {"name", "log_probability", "confidence"} and first["confidence"] >= second["confidence"]
    assert f"{100 * first['confidence']:5.1f} %  {first['name']}" in lines[1]


def test_an_evaluation_of_labels_fits_what_recognize_uses(run, recipe, picture, capsys, tmp_path):
    call = ("evaluate-labels", recipe, "--checkpoint", run, "--prior", "regions", "--out", tmp_path / "labels")
    code, text, _ = called(capsys, *call)
    table = json.loads((tmp_path / "labels" / "labels.json").read_text())["held_out / box"]
    assert code == 0 and "| top 1 | " in text and (tmp_path / "labels" / "labels.md").read_text().strip() in text
    assert {"top 1", "top 5", "ECE", "ECE calibrated", "nll", "nll calibrated", "free text", "temperature"} < set(table)
    assert table["n"] > 0 and table["n fitted"] > 0 and table["n unlisted"] == 0 and table["labels"] > 1
    fitted = tmp_path / "labels" / "calibration" / "held_out-box.json"
    names = json.loads(fitted.read_text())["labels"]
    (tmp_path / "same.txt").write_text("\n".join(names), encoding="utf-8")
    asked = ("recognize", picture, "--checkpoint", run, "--device", "cpu", "--box", "5,5,40,40", "--prior", "regions")
    code, text, _ = called(capsys, *asked, "--labels", tmp_path / "same.txt", "--calibration", fitted)
    assert code == 0 and len(text.splitlines()) == 1 + min(5, len(names))
    (tmp_path / "said.txt").write_text("\n".join(f"{name}\t{name}\ta thing" for name in names), encoding="utf-8")
    code, _, error = called(capsys, *asked, "--labels", tmp_path / "said.txt", "--calibration", fitted)
    assert code == 2 and "fitted with other words for the same labels" in error
    other = tmp_path / "other.json"
    facts = json.loads(fitted.read_text())
    other.write_text(json.dumps(facts | {"model": "0" * 64}))
    code, _, error = called(capsys, *asked, "--labels", tmp_path / "same.txt", "--calibration", other)
    assert code == 2 and f"fitted for another model: for that with the SHA-256 {'0' * 64}" in error


def test_labels_of_a_benchmark_are_scored_and_calibrated_for_recognize(run, picture, capsys, tmp_path):
    write_samples(tmp_path, ["paco"])
    names = [name + part for name in ("fish", "tree", "star", "cross", "ring") for part in ("", ":edge")]
    categories = tmp_path / "paco" / "paco_lvis_v1_val.json"
    categories.write_text(json.dumps({"categories": [{"name": name} for name in names]}))
    out = tmp_path / "out"
    call = ("evaluate-labels", "--checkpoint", run, "--device", "cpu", "--benchmark", "paco", "--data", tmp_path)
    code, text, error = called(capsys, *call, "--out", out, "--prompt-type", "mask", "--max-new-tokens", 3)
    row = json.loads((out / "labels.json").read_text())["paco / mask"]
    assert code == 0 and "| score | paco / mask |" in text and f"calibrations: {out / 'calibration'}" in text
    assert (row["labels"], row["n"], row["n fitted"], row["n unlisted"]) == (10, 3, 6, 0)
    # Progress, and what has to be known about the numbers.
    assert "paco / mask: 100%" in error and "| 3/3 [" in error
    assert "evaluate-labels: paco / mask: 10 labels: the categories of" in error
    asked = ("recognize", picture, "--checkpoint", run, "--device", "cpu", "--box", "5,5,40,40", "--labels", categories)
    code, text, _ = called(capsys, *asked, "--calibration", out / "calibration" / "paco-mask.json")
    assert code == 0 and len(text.splitlines()) == 1 + 5


def test_a_probe_writes_its_table(run, recipe, capsys, tmp_path):
    out = tmp_path / "probe"
    call = ("probe", recipe, "--checkpoint", run, "--device", "cpu", "--limit", 2, "--out", out, "--texts", "reference")
    code, text, _ = called(capsys, *call)
    assert code == 0 and "| recognize en reference | " in text and f"probe: {out / 'probe.md'}" in text
    assert json.loads((out / "probe.json").read_text())["settings"]["sources"] == ["reference"]
    assert json.loads((out / "probe.json").read_text())["settings"]["shape"] == "box"
    code, again, _ = called(capsys, *call, "--resume")
    assert code == 0 and again == text
    # Another model in the folder of then.
    replaced = Path(shutil.copytree(run, tmp_path / "run"))
    with open(replaced / "model" / "recipe.yaml", "a", encoding="utf-8") as file:
        print("# trained anew", file=file)
    code, _, error = called(capsys, *call, "--resume", "--checkpoint", replaced)
    assert code == 2 and "was begun by another probe: its model is" in error and "leave out --resume" in error


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["recognize", "PICTURE", "--labels", "missing.txt"], "missing.txt: no such file; give coco"),
        (["recognize", "film.mp4", "--labels", "coco"], "recognize looks at one picture"),
        (["recognize", "PICTURE", "--labels", "coco", "--prior", "regions"], "known from held-out regions only"),
        (["recognize", "PICTURE", "--labels", "coco"], "nothing to look at"),
        (["recognize", "PICTURE", "--labels", "coco", "--calibration", "none.json"], "none.json: cannot be read"),
        (["recognize", "--labels", "coco"], "where to look?"),
        (["probe", "RECIPE", "--records", "x.jsonl"], "give both --records and --data"),
        (["probe", "RECIPE", "--records", "x.jsonl", "--data", "."], "no file x.jsonl"),
        (["evaluate-labels", "RECIPE", "--labels", "coco"], "0 regions have a label of the list"),
        (["evaluate-labels", "RECIPE", "evaluate.splits.held_out=null"], "evaluate.splits is empty"),
        (["evaluate-labels"], "whose regions? give either RECIPE"),
        (["evaluate-labels", "RECIPE", "--benchmark", "lvis", "--data", "."], "whose regions? give either RECIPE"),
        (["evaluate-labels", "RECIPE", "--limit", "3"], "--limit is of --benchmark; a recipe says such things itself"),
        (["evaluate-labels", "--benchmark", "lvis"], "--benchmark lvis needs --data DIR"),
        (["evaluate-labels", "--benchmark", "lvis", "--data", "PICTURE"], "no such folder; it should hold lvis/"),
    ],
)
def test_mistakes_are_told(run, recipe, picture, capsys, arguments, told):
    places = {"PICTURE": picture, "RECIPE": recipe}
    code, text, error = called(capsys, *(places.get(word, word) for word in arguments), "--checkpoint", run)
    assert code == 2 and told in error
