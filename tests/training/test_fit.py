"""`fit` from a recipe to a run folder: what it leaves behind, what learns and how it ends early."""

import csv
import json
import re
from importlib.metadata import version

import lightning
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pam_kit.data.broken import TooManyBrokenSamples
from pam_kit.data.masks import encode_rle
from pam_kit.errors import PamKitError, RecipeError
from pam_kit.model import RegionVLM
from pam_kit.recipe import load_recipe
from pam_kit.sections import TRAINABLE_PARTS, TrainSection
from pam_kit.training.fit import _precision, accumulation, fit, planned_steps

TINY = {
    "name": "tiny",
    "model": {
        "backbone": {
            "name": "timm_sam",
            "model_name": "test_byobnet",
            "image_size": 64,
            "embed_dim": 32,
            "decoder_depth": 1,
            "decoder_heads": 2,
            "decoder_mlp_dim": 32,
        },
        "perceiver": {
            "name": "semantic_perceiver",
            "num_semantic_tokens": 2,
            "depth": 1,
            "num_heads": 2,
            "mlp_dim": 32,
        },
        "projector": {"name": "pixel_shuffle_mlp", "ratio": 2},
        "decoder": {
            "name": "causal_lm",
            "hidden_size": 32,
            "num_layers": 1,
            "num_heads": 2,
            "vocab_size": 300,
            "max_length": 256,
            "template": "plain",
        },
    },
    "data": {
        "tasks": {"recognize": 1},
        "languages": {"en": 1},
        "regions_per_image": 1,
        "num_workers": 0,
        "max_broken_share": 0.5,
    },
    "train": {
        "trainable": ["perceiver", "projector", "prefix", "decoder"],
        "learning_rate": 0.003,
        "max_steps": 3,
        "global_batch_size": 4,
        "device_batch_size": 4,
        "accelerator": "cpu",
        "devices": 1,
        "num_threads": 1,
        "log_every": 1,
    },
}
EVERYTHING = f"train.trainable=[{','.join(TRAINABLE_PARTS)}]"


def write_dataset(folder, good=8, missing=0, words=("cup",)):
    """A JSONL of rectangles on noise; the last ``missing`` lines name a picture that is not there."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(good + missing):
        picture = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        if number < good:
            Image.fromarray(picture).save(folder / f"{number}.png")
        mask = np.zeros((48, 64), dtype=bool)
        mask[5 : 20 + number, 10 : 30 + number] = True
        texts = {"recognize": {"en": words[number % len(words)]}}
        lines.append({"image": f"{number}.png", "regions": [{"id": "r", "mask": encode_rle(mask), "texts": texts}]})
    path = folder / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


def recipe_of(folder, *overrides, dataset=None):
    """The tiny recipe, written to a file of ``folder`` and read as a user's would be."""
    path = folder / "tiny.yaml"
    source = {"name": "jsonl", "path": str(dataset or folder / "train.jsonl")}
    path.write_text(yaml.safe_dump(TINY | {"data": {**TINY["data"], "train": source}}))
    return load_recipe(path, overrides)


def run(recipe, root, **options):
    return fit(recipe, root, say=lambda text: None, **options)


def weights(folder) -> dict[str, torch.Tensor]:
    return RegionVLM.from_pretrained(str(folder)).state_dict()


def weights_before(recipe) -> dict[str, torch.Tensor]:
    """What training starts from: the parts as the seed makes them."""
    lightning.seed_everything(recipe.seed, verbose=False)
    return RegionVLM.from_recipe(recipe).state_dict()


def changed_parts(before, after) -> set[str]:
    assert before.keys() == after.keys()
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def logged(folder, name="logs") -> list[dict[str, str]]:
    with open(folder / name / "metrics.csv") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def micro_run(tmp_path_factory):
    """30 steps on the micro dataset, two pictures at once of a global batch of four, all but the backbone learning."""
    folder = tmp_path_factory.mktemp("micro")
    micro = {"name": "micro", "num_samples": 16, "image_size": 64}
    data = {**TINY["data"], "train": micro, "regions_per_image": 2}
    (folder / "micro.yaml").write_text(yaml.safe_dump(TINY | {"name": "micro_run", "data": data}))
    recipe = load_recipe(folder / "micro.yaml", ["train.max_steps=30", "train.device_batch_size=2"])
    said = []
    return recipe, fit(recipe, folder / "runs", say=said.append), said


def test_the_run_folder_says_how_it_came_to_be(micro_run):
    recipe, folder, said = micro_run
    assert folder.name == "micro_run"
    again = load_recipe(folder / "recipe.yaml")
    again.source, again.overrides = recipe.source, recipe.overrides
    assert again == recipe
    record = json.loads((folder / "provenance.json").read_text())
    assert record["recipe"] == recipe.source and record["overrides"] == recipe.overrides
    assert record["seed"] == recipe.seed and record["packages"]["torch"] == version("torch")
    assert {"started", "command", "git_commit", "python", "machine"} <= record.keys()
    assert any("120 samples read, none broken" in line for line in said)
    assert not (folder / "broken_samples.jsonl").exists()


def test_the_run_folder_lists_the_parameters(micro_run):
    recipe, folder, said = micro_run
    summary, names = (folder / "parameters.txt").read_text().split("\n\n")
    rows = {line.split()[0]: line.split() for line in summary.splitlines()}
    model = RegionVLM.from_recipe(recipe)
    listed = [line.split()[1] for line in names.splitlines()]
    assert listed == [name for name, _ in model.named_parameters()]
    assert {line.split()[0] for line in names.splitlines() if "backbone." in line} == {"frozen"}
    for part in TRAINABLE_PARTS:
        total = sum(p.numel() for p in getattr(model, part).parameters())
        assert rows[part][-2:] == ["frozen" if part == "backbone" else f"{total:,}", f"{total:,}"]
    assert "30 steps of 4 samples" in said[0]


def test_the_model_folder_is_whole(micro_run):
    recipe, folder, _ = micro_run
    assert {path.name for path in (folder / "model").iterdir()} == {
        "model.safetensors",
        "recipe.yaml",
        "parts.json",
        "tokenizer",
    }
    assert not (folder / "model.part").exists()
    checkpoint = next((folder / "checkpoints").glob("*.ckpt"))
    state = torch.load(checkpoint, weights_only=True)
    assert state["global_step"] == 30
    saved = weights(folder)
    for name, value in state["state_dict"].items():
        assert torch.equal(value, saved[name.removeprefix("model.")]), name


def test_the_loss_falls(micro_run):
    losses = [float(row["loss"]) for row in logged(micro_run[1])]
    assert len(losses) == 30
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5])
    # The backbone is frozen, so the text is all there is to learn.
    assert [row["loss/text"] for row in logged(micro_run[1])] == [row["loss"] for row in logged(micro_run[1])]


def test_frozen_parts_stay_as_they_were_to_the_last_bit(micro_run):
    recipe, folder, _ = micro_run
    before, after = weights_before(recipe), weights(folder)
    assert changed_parts(before, after) == {"perceiver", "projector", "prefix", "decoder"}
    statistics = [name for name in before if name.endswith("running_mean")]
    assert statistics and all(torch.equal(before[name], after[name]) for name in statistics)


def test_every_loss_is_logged_and_every_part_learns(tmp_path):
    write_dataset(tmp_path)
    recipe = recipe_of(tmp_path, EVERYTHING, "train.loss.alignment=1", "train.max_steps=2")
    folder = run(recipe, tmp_path / "runs")
    names = ("text", "alignment", "dice", "bce", "focal", "iou")
    for row in logged(folder):
        parts = {name: float(row[f"loss/{name}"]) for name in names}
        expected = sum(getattr(recipe.train.loss, name) * value for name, value in parts.items())
        assert float(row["loss"]) == pytest.approx(expected, rel=1e-4)
    assert changed_parts(weights_before(recipe), weights(folder)) == set(TRAINABLE_PARTS)


@pytest.mark.parametrize(
    ("join_at", "learning"),
    [
        ("{perceiver: 0.9, decoder: 0.9}", {"backbone"}),
        ("{perceiver: 0.3, decoder: 0.6}", set(TRAINABLE_PARTS)),
        ("{perceiver: 0, decoder: 0.9}", {"backbone", "perceiver", "projector", "decoder"}),
    ],
)
def test_parts_join_one_after_the_other(tmp_path, join_at, learning):
    """Three steps: a share of 0.9 is the whole run. Before the decoder joins, only its word embeddings are aligned."""
    write_dataset(tmp_path)
    options = [EVERYTHING, f"train.join_at={join_at}", "train.loss.alignment=1", "train.weight_decay=0.1"]
    recipe = recipe_of(tmp_path, *options)
    folder = run(recipe, tmp_path / "runs")
    before, after = weights_before(recipe), weights(folder)
    assert changed_parts(before, after) == learning
    if "prefix" not in learning:
        changed = {
            name for name in before if name.startswith("decoder.") and not torch.equal(before[name], after[name])
        }
        assert all("embed" in name or "lm_head" in name for name in changed)


def test_micro_batches_give_what_one_batch_gives(tmp_path):
    """Every picture has one region and every answer as many tokens, so that a mean of means is the mean."""
    write_dataset(tmp_path, words=("ab", "cd", "ef"))
    options = ["train.trainable=[decoder]", "train.global_batch_size=8", "train.gradient_clip=0"]
    ends = []
    for size in (8, 2, 1):
        folder = run(recipe_of(tmp_path, *options, f"train.device_batch_size={size}"), tmp_path / "runs")
        assert logged(folder)[-1]["step"] == "2"
        ends.append(weights(folder))
    start = weights_before(recipe_of(tmp_path))
    assert max((ends[0][name] - start[name]).abs().max() for name in start) > 1e-3
    for other in ends[1:]:
        for name, value in ends[0].items():
            torch.testing.assert_close(other[name], value, rtol=0, atol=1e-5, msg=name)


def test_a_global_batch_that_no_accumulation_reaches(tmp_path):
    write_dataset(tmp_path)
    recipe = recipe_of(tmp_path, "train.global_batch_size=12")
    assert accumulation(recipe, 1) == 3 and accumulation(recipe, 3) == 1
    with pytest.raises(RecipeError, match="global_batch_size=12 is no multiple of device_batch_size 4 times 2 devices"):
        accumulation(recipe, 2)


def test_steps_follow_from_epochs_where_they_are_not_given(tmp_path):
    write_dataset(tmp_path)
    recipe = recipe_of(tmp_path, "train.max_steps=null", "train.epochs=1.5")
    assert planned_steps(recipe, 10) == 4 and planned_steps(recipe, 1) == 1
    assert planned_steps(recipe_of(tmp_path), 10) == 3


def test_broken_samples_are_left_out_and_listed(tmp_path):
    write_dataset(tmp_path, good=6, missing=2)
    said = []
    folder = fit(recipe_of(tmp_path, "train.max_steps=4"), tmp_path / "runs", say=said.append)
    listed = [json.loads(line) for line in (folder / "broken_samples.jsonl").read_text().splitlines()]
    assert {entry["source"] for entry in listed} == {"train.jsonl:7", "train.jsonl:8"} and len(listed) == 2
    assert all("does not exist" in entry["reason"] for entry in listed)
    # Two passes over eight samples, and what was drawn in the place of the broken ones.
    read, broken = map(int, re.search(r"(\d+) samples read, (\d+) of them broken and left out", said[-1]).groups())
    assert read - broken == 16 and broken >= 4


def test_too_many_broken_samples_end_the_run(tmp_path):
    write_dataset(tmp_path, good=3, missing=5)
    with pytest.raises(TooManyBrokenSamples, match=r"train.jsonl:[4-8]") as caught:
        run(recipe_of(tmp_path, "train.max_steps=40"), tmp_path / "runs")
    assert "data.max_broken_share" in str(caught.value)
    folder = tmp_path / "runs" / "tiny"
    assert (folder / "broken_samples.jsonl").exists() and not (folder / "model").exists()


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    write_dataset(tmp_path)
    recipe = recipe_of(tmp_path, "train.learning_rate=1e30", "train.warmup_ratio=0")
    with pytest.raises(PamKitError, match=r"the loss is (nan|inf) at step \d+: text .*Lower train.learning_rate"):
        run(recipe, tmp_path / "runs")


@pytest.mark.parametrize(
    ("accelerator", "expected"),
    [("auto", "bf16-mixed"), ("gpu", "bf16-mixed"), ("cuda", "bf16-mixed"), ("cpu", "32-true"), ("mps", "32-true")],
)
def test_the_precision_is_that_of_the_device_that_is_used(monkeypatch, accelerator, expected):
    """On a machine with a GPU, which the run need not use."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    assert _precision(TrainSection(accelerator=accelerator)) == expected
    assert _precision(TrainSection(accelerator=accelerator, precision="bf16-true")) == "bf16-true"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert _precision(TrainSection(accelerator=accelerator)) == "32-true"
