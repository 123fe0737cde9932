"""The command line from `fit` over `evaluate` to `predict`, and what it says of prompts that point at nothing."""

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from pam_kit.cli import main
from pam_kit.contracts import RegionPrompt

WIDTH, HEIGHT = 90, 60
TINY = """\
# A tiny run of the command line's tests.
model:
  backbone:
    name: timm_sam
    model_name: test_byobnet
    image_size: 64
    embed_dim: 32
    decoder_depth: 1
    decoder_heads: 2
    decoder_mlp_dim: 32
  perceiver: {name: semantic_perceiver, num_semantic_tokens: 2, depth: 1, num_heads: 2, mlp_dim: 32}
  projector: {name: pixel_shuffle_mlp, ratio: 2}
  decoder:
    {name: causal_lm, hidden_size: 32, num_layers: 1, num_heads: 2, vocab_size: 300, max_length: 256, template: plain}
data:
  train: {name: micro, num_samples: 4, image_size: 64}
  num_workers: 0
train:
  max_steps: 9
  global_batch_size: 2
  device_batch_size: 2
  accelerator: cpu
  devices: 1
  num_threads: 1
evaluate:
  max_new_tokens: 4
  pictures: 1
  splits:
    held_out: {dataset: {name: micro, num_samples: 2, seed: 7, image_size: 64}}
"""


def quietly(*arguments) -> tuple[int, str]:
    """Exit code and standard output, for fixtures of the session, which have no capsys."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main([str(argument) for argument in arguments])
    return code, output.getvalue()


def failing(capsys, *arguments) -> str:
    """The message of a call that must end with exit code 2 and without a traceback."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    assert captured.err.startswith(f"pam-kit {arguments[0]}: ")
    return captured.err


@pytest.fixture(scope="session")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cli_run") / "tiny_cli.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A photograph of noise, a mask of its size, one of another, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "photo.png")
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[10:40, 20:70] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(mask[:, :30]).save(folder / "narrow.png")
    (folder / "text.png").write_text("not a picture")
    return folder


@pytest.fixture(scope="session")
def run_folder(recipe) -> Path:
    """Trained and scored by one command."""
    code, output = quietly("fit", recipe, "--out", recipe.parent / "runs", "train.max_steps=2", "train.log_every=1")
    folder = recipe.parent / "runs" / "tiny_cli"
    assert code == 0 and f"model: {folder / 'model'}" in output and "| mask IoU |" in output
    return folder


@pytest.fixture(scope="session")
def predicted(run_folder, pictures) -> tuple[list[dict], Path]:
    """The regions of one call with a box, two points and a mask, and the overlay."""
    overlay = pictures / "overlay.png"
    code, output = quietly(
        *("predict", pictures / "photo.png", "--checkpoint", run_folder, "--box", "10,5,60,50"),
        *("--point", "30,20", "5,5,0", "--mask", pictures / "mask.png", "--task", "recognize,caption"),
        *("--lang", "en,zh", "--max-new-tokens", "4", "--device", "cpu", "--json", "--out", overlay),
    )
    assert code == 0
    return json.loads(output), overlay


def test_fit_leaves_a_model_and_its_scores(run_folder):
    scores = json.loads((run_folder / "scores.json").read_text())
    assert list(scores) == ["held_out / box"] and scores["held_out / box"]["label en"]["n"] > 0
    expected = {"model", "checkpoints", "logs", "predictions", "pictures", "scores.md", "scores.json"}
    expected |= {"recipe.yaml", "provenance.json", "parameters.txt"}
    assert {path.name for path in run_folder.iterdir()} >= expected
    saved = yaml.safe_load((run_folder / "recipe.yaml").read_text())
    assert saved["train"]["max_steps"] == 2 and saved["name"] == "tiny_cli"


def test_evaluate_repeats_the_scores_of_fit(run_folder, recipe, tmp_path):
    code, output = quietly("evaluate", recipe, "--checkpoint", run_folder, "--out", tmp_path / "again")
    assert code == 0 and str(tmp_path / "again" / "scores.md") in output
    assert (tmp_path / "again" / "scores.md").read_text() == (run_folder / "scores.md").read_text()
    for name in ("scores.json", "predictions/held_out-box.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (run_folder / name).read_bytes()


def test_evaluate_may_ask_otherwise(run_folder, recipe):
    changes = ["evaluate.splits.held_out.prompts=[point,mask]", "evaluate.splits.held_out.limit=1"]
    code, output = quietly("evaluate", recipe, "--checkpoint", run_folder, *changes)
    assert code == 0 and "| score | held_out / point | held_out / mask |" in output
    assert (run_folder / "evaluation" / "tiny_cli" / "scores.json").is_file()


def test_predict_prints_json_with_masks_scores_and_texts(predicted):
    regions, _ = predicted
    assert len(regions) == 3
    assert regions[0]["prompt"] == {"box": [10, 5, 60, 50]}
    assert regions[1]["prompt"] == {"points": [[30, 20], [5, 5]], "labels": [1, 0]}
    prompt_mask = coco_mask.decode(regions[2]["prompt"]["mask"])
    assert prompt_mask[10:40, 20:70].all() and prompt_mask.sum() == 30 * 50
    for region in regions:
        mask = coco_mask.decode(region["segmentation"])
        assert mask.shape == (HEIGHT, WIDTH) and mask.sum() == region["area"]
        assert 0 <= region["iou"] <= 1 and 0 <= region["object_score"] <= 1
        assert {task: set(answers) for task, answers in region["texts"].items()} == {
            "recognize": {"en", "zh"},
            "caption": {"en", "zh"},
        }
        answers = [answer for by_language in region["texts"].values() for answer in by_language.values()]
        assert all(isinstance(answer["text"], str) and 0 <= answer["score"] <= 1 for answer in answers)


def test_predict_draws_an_overlay(predicted):
    _, overlay = predicted
    with Image.open(overlay) as picture:
        picture.load()
        assert picture.format == "PNG" and min(picture.size) >= HEIGHT


def test_python_predicts_what_the_command_line_does(predicted, run_folder, pictures):
    from pam_kit import RegionPredictor

    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[10:40, 20:70] = True
    prompts = [
        RegionPrompt(box=(10, 5, 60, 50)),
        RegionPrompt(points=((30, 20), (5, 5)), labels=(1, 0)),
        RegionPrompt(mask=mask),
    ]
    predictor = RegionPredictor.from_run(run_folder, "cpu")
    answers = predictor.predict(pictures / "photo.png", prompts, ("recognize", "caption"), ("en", "zh"), 4)
    found = [json.loads(json.dumps(answer.to_json())) for answer in answers]
    for one, other in zip(found, predicted[0], strict=True):
        assert one["segmentation"] == other["segmentation"] and one["prompt"] == other["prompt"]
        assert one["texts"].keys() == other["texts"].keys() and one["iou"] == pytest.approx(other["iou"], abs=1e-6)
        assert one["texts"]["caption"]["zh"]["text"] == other["texts"]["caption"]["zh"]["text"]


def test_predict_speaks_plainly_too(run_folder, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    prompts = ["--box", "10,5,60,50", "--point", "30,20", "--combine"]
    photo = str(pictures / "photo.png")
    assert main(["predict", photo, "--checkpoint", str(run_folder), *prompts, "--max-new-tokens", "2"]) == 0
    text = capsys.readouterr().out
    expected = (
        r"region 1: \d+ px, box \S+, predicted IoU [01]\.\d\d\n  recognize +en +.* \([01]\.\d\d\)\n"
        r"overlay: photo_regions\.png\n"
    )
    # What an untrained model says may hold line ends.
    assert re.fullmatch(expected, text, re.DOTALL) and (tmp_path / "photo_regions.png").is_file()


def test_a_wrong_region_does_not_keep_the_others_from_their_answers(run_folder, pictures, tmp_path, capsys):
    photo, overlay = str(pictures / "photo.png"), tmp_path / "overlay.png"
    call = ["predict", photo, "--checkpoint", str(run_folder), "--max-new-tokens", "2", "--out", str(overlay)]
    boxes = ["--box", "1,1,50,50", "--box", "60,40,10,5", "--box", "5,5,60,40"]
    assert main([*call, *boxes, "--json"]) == 2
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert ["error" in region for region in told] == [False, True, False] and overlay.is_file()
    assert [list(region["texts"]) for region in told] == [["recognize"], [], ["recognize"]]
    assert captured.err.startswith("pam-kit predict: region 2 of 3: box (60.0, 40.0, 10.0, 5.0) does not fit")
    assert main([*call, *boxes]) == 2
    assert re.findall(r"^region (\d)", capsys.readouterr().out, re.MULTILINE) == ["1", "3"]


def test_predict_tells_things_as_they_are_known(run_folder, pictures, tmp_path, capsys):
    photo, overlay = str(pictures / "photo.png"), str(tmp_path / "overlay.png")
    call = ["predict", photo, "--checkpoint", str(run_folder), "--max-new-tokens", "3", "--out", overlay]
    assert (
        main([*call, "--point", "30,20", "--box", "5,5,60,40", "--ask", "Is it red?", "--hypotheses", "--stream"]) == 0
    )
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["mask", "mask"] and kinds.count("region") == 2 and kinds[-1] == "region"
    answers = [(event["region"], event["task"]) for event in events if event["event"] == "answer"]
    assert sorted(answers) == [(n, task) for n in (1, 2) for task in ("Is it red?", *["recognize"] * 3)]
    for event in events:
        if event["event"] == "region":
            assert [one["name"] for one in event["hypotheses"]] == ["part", "whole", "group"]
            assert list(event["texts"]) == ["Is it red?", "recognize"]
    assert main([*call, "--point", "30,20", "--hypotheses"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name}: " in text for name in ("part", "whole", "group")) and text.count(", chosen") == 1


@pytest.mark.parametrize("switches", [("--precision", "bfloat16"), ("--steps", "fixed")])
def test_switches_of_the_decoder(run_folder, pictures, tmp_path, capsys, switches):
    photo, overlay = str(pictures / "photo.png"), str(tmp_path / "overlay.png")
    call = ["predict", photo, "--checkpoint", str(run_folder), "--max-new-tokens", "2", "--out", overlay, "--json"]
    found = []
    for further in ((), switches):
        assert main([*call, "--box", "5,5,60,40", *further]) == 0
        found.append(json.loads(capsys.readouterr().out)[0])
    assert found[0]["segmentation"] == found[1]["segmentation"]
    scores = [one["texts"]["recognize"]["en"]["score"] for one in found]
    assert scores[0] == pytest.approx(scores[1], abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to look at: give --box x1,y1,x2,y2, --point x,y or --mask mask.png"),
        (["--box", "1,2,3"], "--box 1,2,3: expected four numbers x1,y1,x2,y2, as in --box 10,20,110,90"),
        (["--box", "a,b,c,d"], "--box a,b,c,d: expected four numbers"),
        (["--point", "1,2,7"], "--point 1,2,7: expected x,y or x,y,0 (outside the region) or x,y,1"),
        (["--point", "500,20"], "region 1 of 1: point (500.0, 20.0) lies outside a picture of 90x60 pixels"),
        (["--box", "60,40,10,5"], "region 1 of 1: box (60.0, 40.0, 10.0, 5.0) does not fit"),
        (["--point", "5,5,0"], "only negative points"),
        (["--mask", "narrow.png"], "the mask is 30x60 pixels, the picture 90x60; they must have the same size"),
        (["--mask", "missing.png"], "missing.png: no such file"),
        (["--mask", "text.png"], "text.png: cannot be read as a picture"),
        (["--box", "1,1,5,5", "--box", "2,2,6,6", "--combine"], "one region has at most one box and one mask"),
        (["--box", "1,1,5,5", "--device", "abacus"], "device 'abacus' cannot be used here"),
        (["--box", "1,1,5,5", "--out", "overlay.txt"], "overlay.txt: the overlay is a picture; its name must end in"),
        (["--box", "1,1,5,5", "--out", "nowhere/overlay.png"], "there is no folder nowhere; make it first"),
    ],
)
def test_a_prompt_that_points_at_nothing(capsys, run_folder, pictures, monkeypatch, arguments, message):
    monkeypatch.chdir(pictures)
    text = failing(capsys, "predict", "photo.png", "--checkpoint", run_folder, *arguments)
    assert message in text and len(text.splitlines()) == 1


def test_a_picture_that_cannot_be_read(capsys, pictures):
    arguments = ("--checkpoint", "none", "--box", "1,1,5,5")
    missing = failing(capsys, "predict", pictures / "nothing.png", *arguments)
    assert f"no picture at {pictures / 'nothing.png'}" in missing
    assert "text.png cannot be read as a picture" in failing(capsys, "predict", pictures / "text.png", *arguments)


def test_a_checkpoint_that_is_not_there(capsys, pictures, recipe, tmp_path):
    message = "is not a finished run: no such folder. `pam-kit fit RECIPE` makes one under runs/"
    photo = pictures / "photo.png"
    assert message in failing(capsys, "predict", photo, "--box", "1,1,5,5", "--checkpoint", tmp_path / "no")
    assert message in failing(capsys, "evaluate", recipe, "--checkpoint", tmp_path / "no")
    text = failing(capsys, "predict", photo, "--box", "1,1,5,5", "--checkpoint", tmp_path)
    assert "it has no model/model.safetensors and model/recipe.yaml" in text
