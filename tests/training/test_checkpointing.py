"""Checkpoint files: whole or not at all, never unpickled, two of a run; randomness that follows from the position."""

import os
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pam_kit.checkpoints import LeftOut
from pam_kit.training.checkpointing import AtomicCheckpointIO, DataPosition, RunCheckpoints, RunFacts, seed_from


class Stop(Exception):
    """In the place of the power cut."""


def stop(*_arguments):
    raise Stop


class FakeTrainer(SimpleNamespace):
    """As much of a trainer as the callbacks use; checkpoints are files that hold their step."""

    is_global_zero, world_size, global_rank, max_steps = True, 1, 0, 10
    strategy = SimpleNamespace(broadcast=lambda value: value)

    def save_checkpoint(self, path):
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(self.global_step))


def facts() -> RunFacts:
    return RunFacts("name: tiny", 10, LeftOut())


def drawn() -> tuple:
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()


def test_a_checkpoint_comes_back(tmp_path):
    io, file = AtomicCheckpointIO(), tmp_path / "new" / "a.ckpt"
    io.save_checkpoint({"weight": torch.arange(3.0), "step": 7}, file)
    content = io.load_checkpoint(file)
    assert torch.equal(content["weight"], torch.arange(3.0)) and content["step"] == 7
    assert [path.name for path in file.parent.iterdir()] == ["a.ckpt"]
    io.remove_checkpoint(file)
    io.remove_checkpoint(file)
    assert not file.exists()


@pytest.mark.parametrize("step", ["torch.save", "os.fsync", "os.replace"])
def test_a_writer_that_dies_leaves_the_former_checkpoint(monkeypatch, tmp_path, step):
    io, file = AtomicCheckpointIO(), tmp_path / "a.ckpt"
    io.save_checkpoint({"step": 1}, file)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(step, stop)
        io.save_checkpoint({"step": 2}, file)
    assert io.load_checkpoint(file) == {"step": 1}
    io.save_checkpoint({"step": 3}, file)
    assert io.load_checkpoint(file) == {"step": 3}


def test_bytes_are_on_the_disk_before_the_name_is(monkeypatch, tmp_path):
    order, replace, fsync = [], os.replace, os.fsync
    monkeypatch.setattr("os.fsync", lambda handle: (order.append("bytes"), fsync(handle)))
    monkeypatch.setattr("os.replace", lambda *names: (order.append("name"), replace(*names)))
    AtomicCheckpointIO().save_checkpoint({}, tmp_path / "a.ckpt")
    assert order == ["bytes", "name", "bytes"], "the last is the folder's"


def test_code_in_a_checkpoint_never_runs(tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trace"),)

    torch.save({"state": Code()}, tmp_path / "a.ckpt")
    with pytest.raises(Exception, match="mkdir"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=None)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("every", "expected"), [(3, {"step=9.ckpt", "step=10.ckpt"}), (5, {"step=5.ckpt", "step=10.ckpt"}), (None, None)]
)
def test_the_last_two_checkpoints_are_kept(tmp_path, every, expected):
    callback, trainer = RunCheckpoints(tmp_path, every, facts()), FakeTrainer(global_step=0)
    callback.on_fit_start(trainer, None)
    for step in range(1, 11):
        for trainer.global_step in (step - 1, step):  # two micro-batches a step
            callback.on_train_batch_end(trainer, None, None, None, 0)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == (expected or {"step=10.ckpt"})


def test_a_checkpoint_of_a_later_step_goes_when_a_run_went_back_before_it(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step in (4, 8):
        (folder / f"step={step}.ckpt").touch()
    callback, trainer = RunCheckpoints(tmp_path, 2, facts()), FakeTrainer(global_step=4)
    callback.on_fit_start(trainer, None)
    trainer.global_step = 6
    callback.on_train_batch_end(trainer, None, None, None, 0)
    assert {path.name for path in folder.iterdir()} == {"step=4.ckpt", "step=6.ckpt"}


def test_what_a_killed_writer_left_is_removed(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "step=4.ckpt.part").touch()
    (folder / "step=2.ckpt").touch()
    RunCheckpoints(tmp_path, 2, facts()).on_fit_start(FakeTrainer(global_step=2), None)
    assert [path.name for path in folder.iterdir()] == ["step=2.ckpt"]


def test_a_checkpoint_lacks_what_is_left_out_and_says_so():
    left_out = LeftOut(frozenset({"decoder.a"}), {"decoder": [{"file": "a.pt", "sha256": "0"}]})
    told = RunFacts("name: tiny", 10, left_out, position=12)
    checkpoint = {"state_dict": {"model.decoder.a": torch.zeros(1), "model.prefix.b": torch.zeros(1)}}
    RunCheckpoints(Path(), 1, told).on_save_checkpoint(None, None, checkpoint)
    assert checkpoint["state_dict"].keys() == {"model.prefix.b"}
    assert RunFacts.from_plain(checkpoint["pam_kit"]) == told


def test_randomness_follows_from_seed_process_and_position():
    def at(*place):
        seed_from(*place)
        return drawn()

    assert at(0, 0, 8) == at(0, 0, 8)
    others = [at(*place) for place in ((0, 0, 8), (1, 0, 8), (0, 1, 8), (0, 0, 16), (8, 0, 0))]
    for kind in zip(*others, strict=True):
        assert len(set(map(str, kind))) == len(others)


def test_the_position_counts_samples_of_all_processes():
    told = facts()
    callback, trainer = DataPosition(3, told, samples=2), FakeTrainer(world_size=4, global_rank=1)
    seen = []
    for _ in range(3):
        callback.on_train_batch_start(trainer, None, None, 0)
        seen.append(drawn())
        callback.on_train_batch_end(trainer, None, None, None, 0)
    assert told.position == 24
    seed_from(3, 1, 16)
    assert seen[2] == drawn()
