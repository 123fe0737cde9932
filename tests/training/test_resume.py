"""A run that is killed at any moment and resumed ends with the weights of one that never was: to the last bit."""

import csv
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pam_kit import register
from pam_kit.components.decoders.causal_lm import CausalLM
from pam_kit.components.projectors.linear import LinearProjector
from pam_kit.errors import CheckpointError, RecipeError
from pam_kit.model import RegionVLM
from pam_kit.recipe import load_recipe
from pam_kit.training.fit import fit
from pam_kit.training.module import RegionTrainer

STEPS, EVERY = 12, 3
RECIPE = f"""
name: tiny
model:
  backbone:
    {{name: timm_sam, model_name: test_byobnet, image_size: 64, embed_dim: 32, decoder_depth: 1, decoder_heads: 2,
     decoder_mlp_dim: 32}}
  perceiver: {{name: semantic_perceiver, num_semantic_tokens: 2, depth: 1, num_heads: 2, mlp_dim: 32}}
  projector: test_dropping
  decoder:
    {{name: causal_lm, hidden_size: 32, num_layers: 1, num_heads: 2, vocab_size: 300, max_length: 256, template: plain}}
data:
  train: {{name: micro, num_samples: 10, image_size: 64}}
  num_workers: 1
  regions_per_image: 2
train:
  {{trainable: [perceiver, projector, prefix, decoder], learning_rate: 0.003, max_steps: {STEPS}, global_batch_size: 4,
   device_batch_size: 2, checkpoint_every: {EVERY}, loggers: [csv], log_every: 100, accelerator: cpu, devices: 1,
   num_threads: 1}}
"""


@register("projector", "test_dropping")
class DroppingProjector(LinearProjector):
    """A linear projector that drops half of what it says in training."""

    def forward(self, tokens, later=False):
        projected = super().forward(tokens, later)
        projected.visual = nn.functional.dropout(projected.visual, 0.5, self.training)
        return projected


def recipe_in(folder: Path, *overrides: str):
    (folder / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    return load_recipe(folder / "tiny.yaml", overrides)


def in_a_process(work: Callable[[], None], log: Path) -> int:
    """Run ``work`` in a fork of this process and return how it ended: minus the signal's number if one killed it."""

    def logging():
        # Open to the end: multiprocessing writes an exception of ``work`` there.
        sys.stdout = sys.stderr = open(log, "w", buffering=1)
        work()

    process = multiprocessing.get_context("fork").Process(target=logging)
    process.start()
    process.join(120)
    return process.exitcode


def train(recipe, root: Path, resume: bool = False) -> str:
    """Train in a process of its own; returns what it said."""
    code = in_a_process(lambda: fit(recipe, root, resume), root / "log.txt")
    said = (root / "log.txt").read_text()
    assert code == 0, said
    return said


def train_until_killed(recipe, root: Path, arm: Callable[[], None]) -> None:
    """``arm`` prepares the process that trains to kill itself."""

    def work():
        arm()
        fit(recipe, root)

    assert in_a_process(work, root / "log.txt") == -signal.SIGKILL, (root / "log.txt").read_text()


def kill_self(*_arguments, **_keywords):
    os.kill(os.getpid(), signal.SIGKILL)


def weights_of(root: Path) -> bytes:
    return (root / "tiny" / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def through(tmp_path_factory) -> bytes:
    """The weights of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("through")
    # Imported here once, not in every process anew.
    RegionVLM.from_recipe(recipe_in(folder))
    train(recipe_in(folder), folder)
    return weights_of(folder)


def at_step(step: int) -> None:
    original = RegionTrainer.training_step

    def training_step(task, packet, index):
        if task.global_step == step:
            kill_self()
        return original(task, packet, index)

    RegionTrainer.training_step = training_step


def half_a_checkpoint() -> None:
    """Killed with half of the third checkpoint on the disk."""
    original, saves = torch.save, []

    def save(content, file):
        saves.append(original(content, file))
        if len(saves) == 3:
            file.truncate(file.tell() // 2)
            kill_self()

    torch.save = save


def before_the_checkpoint_has_its_name() -> None:
    original = os.replace

    def replace(draft, path):
        if str(path).endswith("step=9.ckpt"):
            kill_self()
        original(draft, path)

    os.replace = replace


def before_the_model_is_saved() -> None:
    import pam_kit.training.fit as module

    module.save_model = kill_self


def half_a_model() -> None:
    import pam_kit.checkpoints.save as module

    def save_file(state, path, metadata):
        Path(path).write_bytes(b"half")
        kill_self()

    module.save_file = save_file


SOME_STEP = random.Random(7).randrange(EVERY + 1, STEPS)


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(lambda: at_step(SOME_STEP), id=f"in step {SOME_STEP}"),
        half_a_checkpoint,
        before_the_checkpoint_has_its_name,
        half_a_model,
    ],
)
def test_a_killed_run_goes_on_as_if_it_had_not_been(moment, through, tmp_path):
    recipe = recipe_in(tmp_path)
    train_until_killed(recipe, tmp_path, moment)
    assert not (tmp_path / "tiny" / "model").exists()
    train(recipe, tmp_path, resume=True)
    assert weights_of(tmp_path) == through
    names = {path.name for path in (tmp_path / "tiny" / "checkpoints").iterdir()}
    assert names == {"step=9.ckpt", "step=12.ckpt", "tokenizer"}, "nothing of the killed writer is left"
    assert not list((tmp_path / "tiny").glob("model.*"))


@pytest.fixture(scope="module")
def ended(through, tmp_path_factory) -> Path:
    """The folder of a run that was killed behind its last step, before it saved its model."""
    folder = tmp_path_factory.mktemp("ended")
    train_until_killed(recipe_in(folder), folder, before_the_model_is_saved)
    return folder


@pytest.fixture
def killed(ended, tmp_path):
    """A copy of that folder and its recipe; ``killed(*overrides)`` changes the recipe."""
    shutil.copytree(ended / "tiny", tmp_path / "tiny")
    return lambda *overrides: recipe_in(tmp_path, *overrides)


def resume(recipe, root: Path) -> list[str]:
    """Go on in this process; returns what was said."""
    said: list[str] = []
    assert fit(recipe, root, resume=True, say=said.append) == root / "tiny"
    return said


def test_all_steps_were_done_but_the_model_was_not_saved(killed, through, tmp_path):
    assert any("step=12.ckpt" in line for line in resume(killed(), tmp_path))
    assert weights_of(tmp_path) == through


def damage(file: Path) -> None:
    """One wrong bit, which torch itself would not notice."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_checkpoint_is_passed_over(killed, through, tmp_path):
    folder = tmp_path / "tiny" / "checkpoints"
    damage(folder / "step=12.ckpt")
    with pytest.warns(UserWarning, match=r"step=12.ckpt is damaged \(wrong checksum of .*before it"):
        said = resume(killed(), tmp_path)
    assert any("step=9.ckpt" in line for line in said)
    assert weights_of(tmp_path) == through


def test_nothing_but_damaged_checkpoints(killed, tmp_path):
    folder = tmp_path / "tiny" / "checkpoints"
    (folder / "step=12.ckpt").write_bytes(b"")
    (folder / "step=9.ckpt").write_bytes((folder / "step=9.ckpt").read_bytes()[:-1000])
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(CheckpointError, match="no whole checkpoint .*step=9.ckpt, step=12.ckpt are damaged"),
    ):
        resume(killed(), tmp_path)


def test_there_must_be_something_to_resume(tmp_path):
    with pytest.raises(CheckpointError, match="nothing to resume: no run of tiny under .* has a checkpoint"):
        resume(recipe_in(tmp_path), tmp_path)


def test_another_recipe_is_another_run(killed, tmp_path):
    changes = ("train.learning_rate=0.1", "decoder.num_heads=4", "seed=1", "data.regions_per_image=1")
    with pytest.raises(RecipeError) as caught:
        resume(killed(*changes, "train.log_every=7"), tmp_path)
    text = str(caught.value)
    assert "train.learning_rate was 0.003 and is now 0.1" in text
    assert all(key in text for key in ("model.decoder.num_heads", "seed was 0", "data.regions_per_image"))
    assert "log_every" not in text and "train.max_steps" not in text


def test_a_training_set_of_another_length_is_another_run(killed, tmp_path):
    file = tmp_path / "tiny" / "checkpoints" / "step=12.ckpt"
    content = torch.load(file, weights_only=True)
    content["pam_kit"]["max_steps"] = 13
    torch.save(content, file)
    with pytest.raises(RecipeError, match="was to take 13 steps and would now take 12"):
        resume(killed(), tmp_path)


def test_what_does_not_matter_may_change(killed, through, tmp_path):
    changes = ("data.num_workers=0", "train.log_every=3", "evaluate.batch_size=2", "train.checkpoint_every=5")
    (tmp_path / "tiny" / "checkpoints" / "step=12.ckpt").unlink()
    resume(killed(*changes, "init_from=gone"), tmp_path)
    assert weights_of(tmp_path) == through


def test_a_smaller_device_goes_on_at_the_right_sample(tmp_path):
    """Nothing is dropped here, so that a step is the same however it is split, but for rounding."""
    ends = []
    for name, size in (("through", 2), ("resumed", 4)):
        root = tmp_path / name
        root.mkdir()
        plain = ("projector=linear", "data.num_workers=0")
        if size == 2:
            fit(recipe_in(root, *plain), root, say=lambda _: None)
        else:
            shutil.copytree(tmp_path / "through" / "tiny" / "checkpoints", root / "tiny" / "checkpoints")
            (root / "tiny" / "checkpoints" / "step=12.ckpt").unlink()
            resume(recipe_in(root, *plain, f"train.device_batch_size={size}"), root)
        ends.append(load_file(root / "tiny" / "model" / "model.safetensors"))
        last = torch.load(root / "tiny" / "checkpoints" / "step=12.ckpt", weights_only=True)
        assert last["pam_kit"]["position"] == STEPS * 4
        assert last["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] == STEPS * 4 // size
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=0, atol=2e-5, msg=name)


def test_a_finished_run_stays_as_it_is(killed, tmp_path):
    resume(killed(), tmp_path)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "tiny").rglob("*")}
    assert resume(killed(), tmp_path) == [f"{tmp_path / 'tiny'} is finished, there is nothing to resume"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "tiny").rglob("*")} == files


def test_every_start_is_recorded_and_former_logs_stay(killed, tmp_path):
    before = json.loads((tmp_path / "tiny" / "provenance.json").read_text())
    assert before["resumed"] == []
    (tmp_path / "tiny" / "checkpoints" / "step=12.ckpt").unlink()
    resume(killed("train.log_every=1"), tmp_path)
    after = json.loads((tmp_path / "tiny" / "provenance.json").read_text())
    (again,) = after.pop("resumed")
    assert after == {key: value for key, value in before.items() if key != "resumed"}
    assert again["checkpoint"] == "step=9.ckpt" and again["overrides"] == ["train.log_every=1"]
    assert {"started", "command", "git_commit", "machine", "packages"} <= again.keys()
    with open(tmp_path / "tiny" / "logs-2" / "metrics.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["9", "10", "11"]


def test_a_vocabulary_is_learned_once(killed, through, tmp_path, monkeypatch):
    """Another set of texts would make another vocabulary."""
    monkeypatch.setattr(CausalLM, "learn_vocabulary", lambda *_: pytest.fail("a vocabulary was learned"))
    resume(killed(), tmp_path)
    assert weights_of(tmp_path) == through
    tokenizers = [tmp_path / "tiny" / folder / "tokenizer" / "tokenizer.json" for folder in ("checkpoints", "model")]
    assert tokenizers[0].read_bytes() == tokenizers[1].read_bytes()


def test_frozen_weights_of_a_file_are_not_in_a_checkpoint(pretrained_decoder, tmp_path):
    _, path = pretrained_decoder()
    sizes = ("num_key_value_heads=2", "intermediate_size=64", "num_layers=2", "num_heads=4", "vocab_size=320")
    overrides = (f"decoder.path={path}", *(f"decoder.{size}" for size in sizes), "data.num_workers=0")
    recipe = recipe_in(tmp_path, *overrides, "train.trainable=[perceiver, projector, prefix]", "train.max_steps=3")
    folder = fit(recipe, tmp_path, say=lambda _: None)
    through = weights_of(tmp_path)
    content = torch.load(folder / "checkpoints" / "step=3.ckpt", weights_only=True)
    absent = set(content["pam_kit"]["left_out"]["names"])
    assert "decoder.lm.model.layers.1.mlp.up_proj.weight" in absent
    assert absent.isdisjoint(name.removeprefix("model.") for name in content["state_dict"])
    shutil.rmtree(folder / "model")
    resume(recipe, tmp_path)
    assert weights_of(tmp_path) == through
    shutil.rmtree(folder / "model")
    file = path / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="does not belong to this model:\n.*decoder: .*expected SHA-256"):
        resume(recipe, tmp_path)
