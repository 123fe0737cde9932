"""Folders of runs: none overwrites another, the newest of just that name is resumed."""

import os

import pytest

from pam_kit.errors import CheckpointError
from pam_kit.training.run_folder import log_name, new_run_folder, newest_run_folder


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
            (folder / "checkpoints" / "step=1.ckpt").touch()
        os.utime(folder, (1000 + age, 1000 + age))
    assert newest_run_folder(tmp_path, "tiny").name == "tiny-3"
    assert newest_run_folder(tmp_path, "tiny-large").name == "tiny-large"


def test_a_name_may_hold_a_folder(tmp_path):
    folder = new_run_folder(tmp_path, "ablation/tiny") / "checkpoints"
    folder.mkdir()
    (folder / "step=1.ckpt").touch()
    assert newest_run_folder(tmp_path, "ablation/tiny") == tmp_path / "ablation" / "tiny"


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
