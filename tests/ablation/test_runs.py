"""A study from end to end: run in one process and in two, killed and resumed, with a variant that fails."""

import json
import multiprocessing
import os
import shutil
import signal
import time

import pytest

from pam_kit.ablation.chains import make_chains, run_folder
from pam_kit.ablation.execution import execute, failure_of, is_finished, model_of
from pam_kit.ablation.processes import carry_out
from pam_kit.ablation.report import START, write_page
from pam_kit.ablation.study_file import read_study
from pam_kit.cli import main
from pam_kit.errors import PamKitError

# The loss of such a run is no number from its second step on.
FAILING = "  two: []\n  broken: [train.learning_rate=1e30, train.gradient_clip=0]\n"


@pytest.fixture(scope="module")
def study(tmp_path_factory, write_study):
    """The tiny study with a variant that fails, and seed 0 of it run in two processes; what was said."""
    folder = tmp_path_factory.mktemp("study")
    file = write_study(folder)
    file.write_text(file.read_text().replace("  two: []\n", FAILING))
    chains, said = make_chains(read_study(file), seeds=[0]), []
    failed = carry_out(chains.runs, folder / "out", 2, said.append)
    return file, chains, folder / "out", failed, said


def test_a_failing_variant_loses_no_other(study):
    _, chains, out, failed, said = study
    assert [run.variants for run in failed] == [["broken"]]
    assert all(is_finished(run, out) for run in chains.runs if run not in failed)
    assert "learning_rate" in failure_of(failed[0], out)
    assert sum("FAILED" in line for line in said) == 1 and said[-1].startswith("[4/4]")
    assert "Traceback" in json.loads((run_folder(out, failed[0]) / "failure.json").read_text())["traceback"]


def test_the_variants_start_from_the_same_masks(study):
    import torch
    from safetensors.torch import load_file

    _, chains, out, failed, _ = study
    masks, *others = [
        load_file(model_of(run, out) / "model" / "model.safetensors") for run in chains.runs if run not in failed
    ]
    for model in others:
        for name, tensor in model.items():
            assert not name.startswith("backbone.") or torch.equal(tensor, masks[name])
    assert any(
        not torch.equal(tensor, masks[name]) for name, tensor in others[0].items() if name.startswith("decoder.")
    )


def test_tables_and_the_page(study, capsys, tmp_path):
    file, chains, out, _, _ = study
    arguments = ["ablate", str(file), "--out", str(out), "--seeds", "0"]
    assert main([*arguments, "--times", "--table"]) == 0
    table = (out / "tokens" / "table.md").read_text()
    assert (
        "Lower train.learning_rate" in table
        and "broken, seed 0: FAILED" in table
        and "too few runs for a test" in table
    )
    kept = json.loads((out / "tokens" / "results.json").read_text())
    rows = {row["variant"]: row for row in kept["rows"]}
    assert [rows[name]["positions"] for name in ("one", "two", "broken")] == [4 + 1 + 1 + 1, 4 + 1 + 2 + 1, None]
    assert rows["one"]["milliseconds"] > 0 and kept["paper"]["columns"] == ["ms"]
    assert rows["two"]["scores"]["masks"]["mean"] == rows["one"]["scores"]["masks"]["mean"]
    two = {name: cell["mean"] for name, cell in rows["two"]["scores"].items()}
    assert rows["two"]["verdicts"]["speaks"]["difference"] == pytest.approx(two["label"] - two["masks"])
    scores = json.loads(next(run_folder(out, chains.of("one")[0].last).glob("scores-*.json")).read_text())
    expected = 100 * scores["table"]["held_out / box"]["label en"]["mean"]
    assert rows["one"]["scores"]["label"]["by_seed"] == {"0": expected}

    page = tmp_path / "docs" / "ablations.md"
    page.parent.mkdir()
    page.write_text(f"# By hand\n\n{START}\n\n## Tokens\n\nold\n\n## Run elsewhere\n\n| a |\n\nremark\n")
    assert write_page(out, page.parent, [file]) == ["tokens"]
    text = page.read_text()
    assert text.startswith(f"# By hand\n\n{START}\n") and text.count("## Tokens") == 1 and "old" not in text
    assert text.endswith("\n\n## Run elsewhere\n\n| a |\n\nremark\n")
    write_page(out, page.parent, [file])
    assert page.read_text() == text
    assert (page.parent / "images" / "ablation_tokens.png").is_file()
    capsys.readouterr()


def test_a_score_that_is_not_there_loses_nothing(study, tmp_path, capsys):
    file, chains, out, _, _ = study
    mistaken = file.with_name("mistaken.yaml")
    mistaken.write_text(file.read_text().replace("score: label en", "score: lable en"))
    again = tmp_path / "again"
    shutil.copytree(out, again)
    for scores in run_folder(again, chains.of("one")[0].last).glob("scores-*.json"):
        scores.unlink()
    arguments = ["ablate", str(mistaken), "--out", str(again), "--seeds", "0", "--only", "one"]
    assert main(arguments) == 1
    said = capsys.readouterr().out
    problem = "scores.label: held_out / box has no 'lable en'; it has "
    warned, table = said.index("WARNING: "), said.index("UNKNOWN SCORE: ")
    assert said.count(problem) == 2 and warned < table and "mistaken.yaml:" in said and "label en, " in said
    rows = json.loads((again / "mistaken" / "results.json").read_text())["rows"]
    assert list(rows[0]["scores"]) == ["masks"] and not rows[0]["verdicts"]


def test_what_is_finished_is_not_run_again(study, capsys):
    file, chains, out, _, _ = study
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/trained.json")}
    assert main(["ablate", str(file), "--out", str(out), "--seeds", "0", "--only", "one", "--only", "two"]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/trained.json")} == before
    assert "3 of 3 runs are finished already" in capsys.readouterr().out
    assert main(["ablate", str(file), "--out", str(out), "--seeds", "0", "--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith("finished") for line in lines] == [True, True, True, False]
    assert "failed:" in lines[3] and lines[1].startswith("   1  text, seed 0 (one), after 0")


def test_a_killed_run_goes_on_and_ends_alike(study, tmp_path):
    import torch
    from safetensors.torch import load_file

    _, chains, out, _, _ = study
    masks, text = chains.of("two")[0].runs
    shutil.copytree(run_folder(out, masks), run_folder(tmp_path, masks))
    process = multiprocessing.get_context("forkserver").Process(target=execute, args=(text, tmp_path))
    process.start()
    checkpoints = run_folder(tmp_path, text) / "text" / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not is_finished(text, tmp_path)
    carry_out([masks, text], tmp_path, 1, lambda line: None)
    assert json.loads((run_folder(tmp_path, text) / "trained.json").read_text())["resumed"] is True
    one, other = (load_file(model_of(text, folder) / "model" / "model.safetensors") for folder in (out, tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_one_run_of_the_list(study, tmp_path, capsys):
    file, chains, _, _, _ = study
    arguments = ["ablate", str(file), "--out", str(tmp_path), "--seeds", "0"]
    assert main([*arguments, "--run", "1"]) == 2
    assert "is not trained" in capsys.readouterr().err
    assert main([*arguments, "--run", "0"]) == 0 and is_finished(chains.runs[0], tmp_path)
    assert main([*arguments, "--run", "9"]) == 2
    assert "the runs 0 to 3" in capsys.readouterr().err


def test_a_process_that_dies_is_an_error_of_its_run(study, tmp_path):
    _, chains, _, _, _ = study
    failed = carry_out(chains.runs[:2], tmp_path, 1, lambda line: None, work=os._exit)  # two arguments: it raises
    assert failed == list(chains.runs[:2])
    assert "status 1" in failure_of(chains.runs[0], tmp_path)
    assert failure_of(chains.runs[1], tmp_path).startswith("masks, which it starts from, failed: its process ended")


def test_nothing_to_write_a_page_from(tmp_path):
    with pytest.raises(PamKitError, match="no study has a finished run"):
        write_page(tmp_path, tmp_path / "docs")


def test_the_verb_without_a_study_lists_the_shipped_ones(capsys):
    assert main(["ablate"]) == 0
    assert "semantic_tokens" in capsys.readouterr().out
