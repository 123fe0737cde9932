"""The scripts for SLURM: an array task a run, levels one after the other."""

import re
import subprocess

from pam_kit.ablation.chains import make_chains
from pam_kit.ablation.slurm import write_scripts
from pam_kit.ablation.study_file import read_study


def test_the_scripts_cover_every_run_once(tmp_path, write_study, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write_study(tmp_path / "with space")
    chains = make_chains(read_study(file))
    script, submit = write_scripts(chains, tmp_path / "out", [str(file), "--out", "out", "--only", "a b"])
    assert "'with space" not in script.read_text() or "'" in script.read_text()
    text = script.read_text()
    assert text.startswith("#!/bin/bash\n") and "#SBATCH --job-name=pam-kit-tokens" in text
    assert text.count(' --run "$SLURM_ARRAY_TASK_ID"') == 1 and "--only 'a b'" in text
    assert [line for line in text.splitlines() if line.startswith("#   5:")] == ["#   5: text, seed 1 (two)"]
    orders = submit.read_text()
    assert re.findall(r"--array=(\S+)", orders) == ["0-1", "2-5"]
    assert re.findall(r"--dependency=(\S+)", orders) == ["afterany:$level0", "afterany:$level1"]
    assert "--times --table" in orders


def test_the_submission_runs(tmp_path, write_study, monkeypatch):
    """With an sbatch that notes how it is called, in the place of SLURM's."""
    monkeypatch.chdir(tmp_path)
    fake = tmp_path / "bin" / "sbatch"
    fake.parent.mkdir()
    fake.write_text('#!/bin/bash\necho "$@" >> calls.txt\nwc -l < calls.txt\n')
    fake.chmod(0o755)
    _, submit = write_scripts(make_chains(read_study(write_study(tmp_path))), tmp_path / "out", ["tokens.yaml"])
    subprocess.run([submit], check=True, env={"PATH": f"{fake.parent}:/usr/bin:/bin"}, capture_output=True)
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    assert [call.partition(" /")[0] for call in calls[:2]] == [
        "--parsable --array=0-1",
        "--parsable --array=2-5 --dependency=afterany:1",
    ]
    assert calls[2].endswith("--dependency=afterany:2 --wrap pam-kit ablate tokens.yaml --times --table")
