"""A published folder needs no other file, says what it is made of, and loads as the run does."""

import re

import pytest
import torch
import yaml
from safetensors.torch import load_file

from pam_kit.checkpoints import load_model, save_model
from pam_kit.errors import CheckpointError
from pam_kit.model import RegionVLM
from pam_kit.released.publishing import CARD, publish


@pytest.fixture
def saved(tiny_model, tiny_recipe, tmp_path):
    """``saved(*overrides)`` -> the model and the run folder in which it lies."""

    def save(*overrides: str):
        model = tiny_model(*overrides)
        save_model(tmp_path / "run", model, tiny_recipe(*overrides))
        return model, tmp_path / "run"

    return save


def assert_same_state(one: RegionVLM, other: RegionVLM) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_it_loads_as_the_run_does(saved, sample_batch, tmp_path):
    model, run = saved()
    report = publish(run, tmp_path / "model-to-go")
    assert sorted(path.name for path in (tmp_path / "model-to-go").iterdir()) == sorted(
        ["README.md", "model.safetensors", "parts.json", "recipe.yaml", "tokenizer"]
    )
    again = RegionVLM.from_pretrained(str(tmp_path / "model-to-go"))
    assert_same_state(model, again)
    batch = sample_batch()
    with torch.inference_mode():
        assert torch.equal(model(batch).text.per_question, again(batch).text.per_question)
    assert not report.merged and sum(report.tensors.values()) == len(load_file(run / "model/model.safetensors"))


def test_frozen_weights_that_the_run_leaves_in_their_file_come_along(pretrained_decoder, saved, tmp_path):
    _, path = pretrained_decoder()
    sizes = ("num_layers=2", "num_key_value_heads=2", "intermediate_size=64", "vocab_size=320")
    overrides = (f"decoder.path={path}", *(f"decoder.{size}" for size in sizes))
    model, run = saved(*overrides)
    model.decoder.requires_grad_(False)
    _, recipe = load_model(run)
    save_model(run, model, recipe)
    assert "decoder.lm.model.embed_tokens.weight" not in load_file(run / "model/model.safetensors")
    publish(run, tmp_path / "whole")
    path.rename(tmp_path / "gone")
    assert_same_state(model, RegionVLM.from_pretrained(str(tmp_path / "whole")))
    assert f"- decoder: path {path}" in (tmp_path / "whole" / CARD).read_text()


def test_the_card_says_what_the_model_is_made_of(saved, tmp_path):
    model, run = saved("decoder.num_layers=1")
    (run / "scores.md").write_text("| score | box |\n| --- | --- |\n| mask IoU | 12.3 |\n")
    publish(run, tmp_path / "my-model")
    _, head, body = (tmp_path / "my-model" / CARD).read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "pam-kit"
    for part in ("backbone", "perceiver", "projector", "decoder", "prefix"):
        total = sum(parameter.numel() for parameter in getattr(model, part).parameters())
        assert re.search(rf"^\| {part} \|.*\| {total:,} \|$", body, re.MULTILINE)
    assert "num_layers=1" in body and 'RegionVLM.from_pretrained("my-model")' in body
    assert "## Licences to check" in body and "- backbone: model_name test_byobnet" in body
    assert "- training set: micro with num_samples=8" in body and "| mask IoU | 12.3 |" in body


def test_the_card_of_an_imported_run_names_the_folder(imported_run, tmp_path):
    folder, run = imported_run
    publish(run, tmp_path / "out")
    card = (tmp_path / "out" / CARD).read_text()
    assert f"- recipe: from {folder}" in card and "## Scores" not in card
    again, expected = (load_model(path)[0] for path in (tmp_path / "out", run))
    assert_same_state(again, expected)


def test_adapters_are_merged_and_leave_the_recipe(saved, sample_batch, tmp_path):
    """The published model is a plain one that says what the run said."""
    pytest.importorskip("peft")
    model, run = saved("decoder.lora_rank=2", "decoder.lora_alpha=8")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    save_model(run, model, load_model(run)[1])
    report = publish(run, tmp_path / "out")
    again, recipe = load_model(tmp_path / "out")
    assert report.merged and "its adapters merged into the decoder" in report.lines()[0]
    assert recipe.model.decoder.arguments["lora_rank"] == 0 and "lora_alpha" not in recipe.model.decoder.arguments
    assert not any("lora" in name for name in again.state_dict())
    batch = sample_batch()
    with torch.inference_mode():
        torch.testing.assert_close(again(batch).text.per_question, model(batch).text.per_question, atol=1e-4, rtol=0)


def test_a_quantised_decoder_is_refused_and_the_remedy_works(pretrained_decoder, saved, tmp_path):
    pytest.importorskip("bitsandbytes")
    language_model, path = pretrained_decoder()
    sizes = ("num_layers=2", "num_key_value_heads=2", "intermediate_size=64", "vocab_size=320")
    _, run = saved(f"decoder.path={path}", *(f"decoder.{size}" for size in sizes), "decoder.quantize=nf4")
    with pytest.raises(CheckpointError, match="kept in few bits .decoder.quantize=nf4.*no adapters") as caught:
        publish(run, tmp_path / "out")
    remedy = re.search(r"model, recipe = .*recipe\)", str(caught.value)).group()
    plain = tmp_path / "plain"
    words = {"load_model": load_model, "save_model": save_model}
    exec(remedy.replace("RUN", str(run)).replace("PLAIN", str(plain)), words)
    publish(plain, tmp_path / "out")
    path.rename(tmp_path / "gone")
    again = RegionVLM.from_pretrained(str(tmp_path / "out")).decoder.lm.state_dict()
    assert all(torch.equal(again[name], value) for name, value in language_model.state_dict().items())


def test_a_folder_that_is_there_already(saved, tmp_path):
    _, run = saved()
    with pytest.raises(CheckpointError, match="run is there already; choose another --out"):
        publish(run, run)


def test_a_folder_with_a_similar_name_is_left_alone(saved, tmp_path):
    _, run = saved()
    for name in ("out.part", "out.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("mine")
    (tmp_path / "out").mkdir()
    publish(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.glob("out.*/*")) == ["thesis.txt"] * 2


def test_a_run_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="is not a finished run"):
        publish(tmp_path / "nothing", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_publication_that_dies_leaves_nothing(saved, tmp_path, monkeypatch):
    _, run = saved()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("pam_kit.released.publishing.model_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        publish(run, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before
