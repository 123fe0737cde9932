"""import-pam, export-pam and export from the command line: what they print, and how they refuse."""

import json

import pytest
from safetensors.torch import load_file

from pam_kit.cli import main


def call(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def test_from_the_release_to_a_run_and_back(released_folder, small_sam2, tmp_path, capsys):
    folder, run, again = released_folder(), tmp_path / "run", tmp_path / "again"
    assert call("import-pam", folder, "--out", run, *small_sam2, "--whole-vocabulary") == 0
    text = capsys.readouterr().out
    assert f"read        {folder}" in text and "decoder          26 tensors" in text and "320 rows\n" in text
    assert f"next        pam-kit predict photo.jpg --checkpoint {run} --box" in text
    assert call("export-pam", run, "--out", again) == 0
    assert f"written     {again}: model.safetensors, config.json, tokenizer" in capsys.readouterr().out
    assert load_file(folder / "model.safetensors").keys() == load_file(again / "model.safetensors").keys()


def test_the_options_reach_the_import(released_folder, small_sam2, tokenizer_folder, tmp_path, capsys):
    folder = released_folder(tower=False, tokenizer=False)
    refused = ["import-pam", folder, "--out", tmp_path / "run", *small_sam2]
    assert call(*refused) == 2 and "has no tokenizer files" in capsys.readouterr().err
    assert call(*refused, "--tokenizer", tokenizer_folder) == 2
    assert "pam-kit import-pam: " in (text := capsys.readouterr().err) and "--sam2" in text and "Traceback" not in text
    assert call(*refused, "--tokenizer", tokenizer_folder, "--sam2", tmp_path / "sam2.pt") == 2
    assert f"no weight file at {tmp_path / 'sam2.pt'}" in capsys.readouterr().err


def test_a_wrong_change_to_the_recipe_is_named(released_folder, tmp_path, capsys):
    assert call("import-pam", released_folder(), "--out", tmp_path / "run", "backbone.sise=tiny") == 2
    assert "command line: backbone.sise=tiny" in (text := capsys.readouterr().err) and "did you mean 'size'?" in text


def test_export_of_a_run(tiny_model, tiny_recipe, tmp_path, capsys):
    from pam_kit.checkpoints import save_model

    save_model(tmp_path / "run", tiny_model(), tiny_recipe())
    assert call("export", tmp_path / "run", "--out", tmp_path / "out") == 0
    assert f"next        look through {tmp_path / 'out'}/README.md" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/parts.json").read_text())["decoder"]["name"] == "causal_lm"
    assert call("export-pam", tmp_path / "run", "--out", tmp_path / "pam") == 2
    assert "the released code has sam2 alone" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["import-pam", "export-pam", "export"])
def test_where_to_is_required(verb, capsys):
    with pytest.raises(SystemExit):
        call(verb, "somewhere")
    assert "--out" in capsys.readouterr().err
