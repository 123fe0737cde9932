"""Folders of runs: none overwrites another, the newest of just that name is resumed."""

import os

import pytest

from pam_kit.errors import CheckpointError
from pam_kit.training.run_folder import log_name, new_run_folder, newest_run_folder, runs_of


def test_no_run_overwrites_another(tmp_path):
    folders = [new_run_folder(tmp_path / "runs", "tiny") for _ in range(3)]
    assert [folder.name for folder in folders] == ["tiny", "tiny-2", "tiny-3"]
    (tmp_path / "runs" / "other").write_text("a file of that name")
    assert new_run_folder(tmp_path / "runs", "other").name == "other-2"


def test_the_newest_run_of_just_that_name_is_resumed(tmp_path):
    for age, name in enumerate(["tiny-2", "tiny", "tiny-3", "tiny-large", "tiny-4"]):
        folder = tmp_path / name
        (folder / "checkpoints").mkdir(parents=True)
        if name != "tiny-4":
            for step in (2, 1):
                (folder / "checkpoints" / f"step={step}.ckpt").touch()
                os.utime(folder / "checkpoints" / f"step={step}.ckpt", (1000 + 10 * age + step,) * 2)
    # An evaluation of an old run leaves its results there.
    (tmp_path / "tiny" / "scores.md").touch()
    (tmp_path / "tiny-2" / "checkpoints" / "tokenizer").mkdir()
    assert newest_run_folder(tmp_path, "tiny").name == "tiny-3"
    assert newest_run_folder(tmp_path, "tiny-large").name == "tiny-large"


def test_a_name_may_hold_a_folder(tmp_path):
    folder = new_run_folder(tmp_path, "ablation/tiny") / "checkpoints"
    folder.mkdir()
    (folder / "step=1.ckpt").touch()
    assert newest_run_folder(tmp_path, "ablation/tiny") == tmp_path / "ablation" / "tiny"


def test_a_name_may_hold_what_patterns_are_made_of(tmp_path):
    names = ("lr=[1e-4]", "lr=1", "a.c", "abc")
    runs = {name: {new_run_folder(tmp_path, name) for _ in range(2)} for name in names}
    assert {name: set(runs_of(tmp_path, name)) for name in names} == runs
    assert runs_of(tmp_path / "nowhere", "abc") == []
    for folder in runs["lr=[1e-4]"]:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "step=1.ckpt").touch()
    assert newest_run_folder(tmp_path, "lr=[1e-4]") in runs["lr=[1e-4]"]


def test_there_must_be_something_to_resume(tmp_path):
    new_run_folder(tmp_path, "tiny")
    with pytest.raises(CheckpointError, match="nothing to resume: no run of tiny under .* has a checkpoint"):
        newest_run_folder(tmp_path, "tiny")


def test_former_logs_stay(tmp_path):
    names = []
    for _ in range(3):
        names.append(log_name(tmp_path))
        (tmp_path / names[-1]).mkdir()
    assert names == ["logs", "logs-2", "logs-3"]
