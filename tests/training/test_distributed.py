"""Two processes learn what one learns from the same global batches: under DDP and FSDP2, however they are started.

Sums over devices run in another order, so numbers agree to rounding: losses to 1e-5 of their value, and weights to
2e-5, a hundredth of what a step of AdamW moves them by.
"""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributed.tensor import DTensor

from pam_kit.checkpoints.state import full_state
from pam_kit.data.masks import encode_rle
from pam_kit.model import RegionVLM
from pam_kit.recipe import load_recipe
from pam_kit.training.fit import fit
from pam_kit.training.layers import gathered
from pam_kit.training.module import RegionTrainer

RECIPE = """
name: tiny
model:
  backbone:
    {name: timm_sam, model_name: test_byobnet, image_size: 64, embed_dim: 32, decoder_depth: 1, decoder_heads: 2,
     decoder_mlp_dim: 32, freeze_extractor: true}
  perceiver: {name: semantic_perceiver, num_semantic_tokens: 2, depth: 1, num_heads: 2, mlp_dim: 32}
  projector: {name: pixel_shuffle_mlp, ratio: 2}
  decoder:
    {name: causal_lm, architecture: qwen2, hidden_size: 32, num_layers: 2, num_heads: 2, vocab_size: 300,
     max_length: 256, template: plain}
data:
  train: {name: micro, num_samples: 32, image_size: 64, seed: 0}
  num_workers: 0
train:
  {trainable: [backbone, perceiver, projector, prefix, decoder], learning_rate: 0.002, max_steps: 3, devices: 1,
   global_batch_size: 4, device_batch_size: 4, accelerator: cpu, num_threads: 1, log_every: 1, loggers: [csv]}
"""
TWO = ("train.devices=2", "train.device_batch_size=2")
ALIGNED = "train.trainable=[perceiver,projector,prefix]"


@pytest.fixture(scope="module", autouse=True)
def _imported_once(tmp_path_factory):
    """What the processes would import, each for itself and anew in each run."""
    file = tmp_path_factory.mktemp("imported") / "tiny.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    RegionVLM.from_recipe(load_recipe(file, ()))


def train(folder: Path, *overrides: str, resume: bool = False) -> Path:
    """A run of the tiny recipe in ``folder/runs``, in this process."""
    file = folder / "tiny.yaml"
    return fit(load_recipe(file, overrides), folder / "runs", resume, say=lambda text: None)


@pytest.fixture
def learn(tmp_path, in_processes):
    """``learn(name, *overrides, count=2, launcher="torchrun", resume=False, ends=True)`` -> losses and weights."""

    def run(name, *overrides: str, count: int = 2, launcher: str = "torchrun", resume: bool = False, ends: bool = True):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
        in_processes(lambda rank: train(folder, *overrides, resume=resume), count, launcher)
        assert [path.name for path in (folder / "runs").iterdir()] == ["tiny"], "every process has the same folder"
        return outcome(folder / "runs" / "tiny") if ends else None

    return run


def outcome(folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    rows = [row for file in sorted(folder.glob("logs*/metrics.csv")) for row in csv.DictReader(file.open())]
    return [float(row["loss"]) for row in rows if row["loss"]], RegionVLM.from_pretrained(str(folder)).state_dict()


def assert_same(found, expected, atol: float = 2e-5) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5) and len(expected[0]) > 1
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        # All keys of an attention may be shifted alike: the gradient is of rounding errors, which AdamW magnifies.
        if name.endswith(("k_proj.bias", "key.bias")):
            continue
        torch.testing.assert_close(
            found[1][name], value, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_all_parts_learn_the_same_on_two_devices(learn, monkeypatch):
    """Trained and frozen parameters side by side: the backbone's extractor stays as it is. That a device talks in
    between is nothing to the others."""
    one = learn("one", count=1)
    assert_same(learn("ddp", "train.strategy=ddp", *TWO), one)
    monkeypatch.setattr(RegionTrainer, "on_train_batch_end", talk)
    options = ("train.activation_checkpointing=true", "data.num_workers=1")
    assert_same(learn("fsdp2", "train.strategy=fsdp2", *options, *TWO), one)


def talk(task, outputs, packet, index) -> None:
    """The first process answers the questions of its batch, as the model that is saved in the end would."""
    modes, weights = {module: module.training for module in task.modules()}, full_state(task.model)
    with gathered(task):
        if task.global_rank == 0:
            batch = packet.batch
            ask = (batch.images, batch.image_index, batch.prompts, batch.questions, 4)
            own = RegionVLM.from_recipe(task.recipe).eval()
            own.load_state_dict(weights, strict=False)
            own.decoder.tokenizer, own.decoder._format = task.model.decoder.tokenizer, task.model.decoder._format
            assert task.model.eval().answer(*ask)[1] == own.answer(*ask)[1]
    for module, mode in modes.items():
        module.training = mode


def refuse_steep(task, outputs, packet, index) -> None:
    """A step's gradient, over all devices, is as long as the recipe allows: it was longer before it was clipped."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in task.parameters() if p.grad is not None])
    whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
    assert not packet.last or float(whole) == pytest.approx(task.recipe.train.gradient_clip, rel=1e-3)


def test_a_frozen_decoder_is_learned_through(learn, monkeypatch, pretrained_decoder):
    """Stages 1 and 1.5; every device takes two micro-batches a step, and the decoder's weights stay in their file."""
    monkeypatch.setattr(RegionTrainer, "on_train_batch_end", refuse_steep)
    sizes = ("num_heads=4", "num_key_value_heads=2", "intermediate_size=64", "vocab_size=320")
    decoder = [f"decoder.{option}" for option in (f"path={pretrained_decoder()[1]}", *sizes)]
    options = (
        ALIGNED,
        "backbone.frozen=true",
        *decoder,
        "train.gradient_clip=0.05",
        "train.activation_checkpointing=true",
    )
    one = learn("one", *options, count=1)
    small = ("train.devices=2", "train.device_batch_size=1")
    assert_same(learn("ddp", "train.strategy=ddp", *options, *small), one)
    assert_same(learn("fsdp2", "train.strategy=fsdp2", *options, *small), one)


def test_slurm_and_torchrun_start_the_same_run(learn):
    one_each = ("train.strategy=ddp", "train.devices=1", "train.num_nodes=2", "train.device_batch_size=2")
    torchrun, slurm = learn("torchrun", "train.strategy=ddp", *TWO), learn("slurm", *one_each, launcher="slurm")
    assert slurm[0] == torchrun[0]
    assert all(torch.equal(value, torchrun[1][name]) for name, value in slurm[1].items())


def test_a_run_goes_on_under_another_strategy(learn, monkeypatch):
    options = ("train.max_steps=4", "train.checkpoint_every=2", *TWO)
    whole = learn("whole", "train.strategy=ddp", *options)
    for before, after in (("ddp", "fsdp2"), ("fsdp2", "ddp")):
        with monkeypatch.context() as patch:
            patch.setattr(RegionTrainer, "training_step", stopping(RegionTrainer.training_step))
            learn(before, f"train.strategy={before}", *options, ends=False)
        assert_same(learn(before, f"train.strategy={after}", *options, resume=True), whole)


def stopping(training_step):
    """A training step that ends its process after two optimiser steps."""

    def step(task, packet, index):
        if task.global_step == 2:
            os._exit(0)
        return training_step(task, packet, index)

    return step


def test_a_device_without_questions_or_good_samples_holds_up_no_other(learn, tmp_path):
    """Of each two samples, which are one device's, some have no text, some no mask, and some are broken."""
    write_uneven(tmp_path)
    source = f"data.train={{name: jsonl, path: {tmp_path / 'train.jsonl'}}}"
    options = (source, "data.max_broken_share=0.5", "train.max_steps=4", "train.decoder_questions=1")
    one = learn("one", *options, count=1)
    for strategy in ("ddp", "fsdp2"):
        assert_same(learn(strategy, f"train.strategy={strategy}", *options, *TWO), one)


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_steps_in_which_no_device_has_a_text(learn, tmp_path, strategy):
    """Of six steps, at least three have nothing but masks, while the decoder is to learn."""
    write_uneven(tmp_path)
    file = tmp_path / "train.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[number] for number in (0, 1, 2, 4)))
    source = f"data.train={{name: jsonl, path: {file}}}"
    small = ("train.devices=2", "train.device_batch_size=1", "train.global_batch_size=2", "train.max_steps=6")
    losses, weights = learn(strategy, f"train.strategy={strategy}", source, *small)
    assert len(losses) == 6 and all(weight.isfinite().all() for weight in weights.values())


def write_uneven(folder: Path) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((48, 64), dtype=bool)
    mask[5:30, 10:40] = True
    whole = {"id": "r", "mask": encode_rle(mask), "texts": {"recognize": {"en": "a cup of tea"}}}
    silent = {"id": "r", "mask": encode_rle(mask)}
    maskless = {"id": "r", "box": [5, 6, 30, 28], "texts": {"recognize": {"en": "cup"}}}
    lines = []
    for number, region in enumerate([silent, whole, silent, maskless, silent, silent, maskless, whole]):
        if number != 5:
            Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        lines.append({"image": f"{number}.png", "regions": [region]})
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
