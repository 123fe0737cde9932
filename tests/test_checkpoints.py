"""Checkpoints: saved whole or not at all, loaded equal, started from where parts are shared, never unpickled."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pam_kit.checkpoints import load_model, model_folder, save_model, start_from
from pam_kit.errors import CheckpointError
from pam_kit.model import RegionVLM
from pam_kit.recipe import load_recipe
from pam_kit.weights import pretrained_weights_wanted, read_weights, without_pretrained_weights


@pytest.fixture
def saved(tiny_model, tiny_recipe, tmp_path):
    """``saved(*overrides)`` -> the model and the run folder in which it lies."""

    def save(*overrides: str, seed: int = 0):
        model = tiny_model(*overrides, seed=seed)
        save_model(tmp_path / "run", model, tiny_recipe(*overrides))
        return model, tmp_path / "run"

    return save


def outputs(model: RegionVLM, batch):
    with torch.inference_mode():
        out = model(batch)
        _, answers = model.answer(batch.images, batch.image_index, batch.prompts, batch.questions, 5)
    return out.text.per_question, out.regions.mask_logits, answers


def assert_same_outputs(one: RegionVLM, other: RegionVLM, batch) -> None:
    for first, second in zip(outputs(one, batch), outputs(other, batch), strict=True):
        assert torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def assert_same_state(one: torch.nn.Module, other: torch.nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("inner", [False, True], ids=["run folder", "model folder"])
def test_round_trip(saved, sample_batch, tiny_recipe, inner):
    model, folder = saved()
    loaded, recipe = load_model(folder / "model" if inner else folder)
    assert_same_state(model, loaded)
    assert_same_outputs(model, loaded, sample_batch())
    assert not loaded.training and recipe.model == tiny_recipe().model and recipe.train == tiny_recipe().train
    assert_same_outputs(RegionVLM.from_pretrained(str(folder)), model, sample_batch())


def test_tied_weights_are_stored_once_and_tied_again(saved):
    model, folder = saved()
    table = model.decoder.lm.get_input_embeddings().weight
    stored = load_file(folder / "model/model.safetensors")
    assert sum(torch.equal(value, table) for value in stored.values() if value.shape == table.shape) == 1
    lm = load_model(folder)[0].decoder.lm
    assert lm.get_input_embeddings().weight is lm.get_output_embeddings().weight


def test_a_folder_can_move(saved, sample_batch, tmp_path):
    model, folder = saved()
    assert_same_outputs(load_model(folder.rename(tmp_path / "elsewhere"))[0], model, sample_batch())


def test_overrides_that_keep_the_weights_fit(saved):
    _, folder = saved()
    loaded, recipe = load_model(folder, ("perceiver.mask_focus=2.0", "evaluate.batch_size=3"))
    assert loaded.perceiver.mask_focus == 2.0 and recipe.evaluate.batch_size == 3


@pytest.mark.parametrize("override", ["perceiver.num_semantic_tokens=5", "perceiver.depth=1", "perceiver.depth=3"])
def test_overrides_that_change_the_weights_are_refused(saved, override):
    _, folder = saved()
    with pytest.raises(CheckpointError, match="does not fit the model of its recipe"):
        load_model(folder, (override,))


def test_no_pretrained_weights_are_read_for_a_checkpoint(monkeypatch, saved, sample_batch):
    def refuse(_model):
        raise AssertionError("pretrained weights were read")

    overrides = ("backbone.model_name=tf_efficientnet_lite0", "backbone.weights=lite0")
    model, folder = saved(*overrides)
    monkeypatch.setattr("pam_kit.components.backbones.lite0.load_lite0", refuse)
    assert_same_outputs(load_model(folder)[0], model, sample_batch())
    with pytest.raises(AssertionError, match="were read"):
        RegionVLM.from_recipe(load_recipe(folder / "model/recipe.yaml"))


def test_a_pretrained_decoder_is_rebuilt_as_it_was(pretrained_decoder, saved, sample_batch):
    """Its sizes stand in the recipe, its rope base in its own files alone, which are gone when the run is loaded."""
    _, path = pretrained_decoder()
    sizes = ("num_layers=2", "num_key_value_heads=2", "intermediate_size=64", "vocab_size=320")
    model, folder = saved(f"decoder.path={path}", *(f"decoder.{size}" for size in sizes))
    path.rename(path.with_name("gone"))
    loaded, _ = load_model(folder)
    assert_same_state(model, loaded)
    assert_same_outputs(model, loaded, sample_batch())


def test_weights_are_wanted_but_inside_the_context_and_on_the_meta_device():
    assert pretrained_weights_wanted()
    with pytest.raises(KeyError), without_pretrained_weights():
        assert not pretrained_weights_wanted()
        raise KeyError
    with torch.device("meta"):
        assert not pretrained_weights_wanted()
    assert pretrained_weights_wanted()


def test_a_missing_run(tmp_path):
    with pytest.raises(CheckpointError, match="nothing is not a finished run: no such folder.*pam-kit fit"):
        load_model(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="it has no model/model.safetensors and model/recipe.yaml"):
        model_folder(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "recipe.yaml", "tokenizer", "tokenizer/tokenizer.json"])
def test_an_incomplete_run(saved, file):
    _, folder = saved()
    (folder / "model" / file).rename(folder / "taken")
    with pytest.raises(CheckpointError, match=Path(file).parts[0]):
        load_model(folder)


def test_a_damaged_weight_file(saved):
    _, folder = saved()
    file = folder / "model/model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="model.safetensors is not a readable weight file"):
        load_model(folder)


@pytest.mark.parametrize("step", ["save_file", "resolved_yaml", "component_choices", "os.fsync"])
def test_a_save_that_dies_leaves_the_former_model(monkeypatch, saved, tiny_model, tiny_recipe, sample_batch, step):
    model, folder = saved()

    def die(*_arguments, **_keywords):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(step if "." in step else f"pam_kit.checkpoints.save.{step}", die)
        save_model(folder, tiny_model(seed=1), tiny_recipe())
    assert_same_outputs(load_model(folder)[0], model, sample_batch())
    later = tiny_model(seed=2)
    save_model(folder, later, tiny_recipe())
    assert_same_outputs(load_model(folder)[0], later, sample_batch())
    assert [path.name for path in folder.iterdir()] == ["model"], "nothing of the dead save is left"


def test_a_first_save_that_dies_leaves_no_model(monkeypatch, tiny_model, tiny_recipe, tmp_path):
    model = tiny_model()
    monkeypatch.setattr(model.decoder, "save_tokenizer", lambda _folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_model(tmp_path / "run", model, tiny_recipe())
    with pytest.raises(CheckpointError, match="not a finished run"):
        load_model(tmp_path / "run")


def test_start_from_a_run_of_the_same_parts(saved, tiny_model, tiny_recipe, sample_batch):
    """Everything is taken over, the learned vocabulary too."""
    former, folder = saved()
    torch.manual_seed(1)
    model = RegionVLM.from_recipe(tiny_recipe()).eval()
    fates = start_from(model, tiny_recipe(), folder)
    assert fates == dict.fromkeys(("backbone", "perceiver", "projector", "decoder", "prefix"), "loaded")
    assert_same_state(former, model)
    assert_same_outputs(former, model, sample_batch())


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        (("perceiver.num_semantic_tokens=6",), {"perceiver"}),
        (("perceiver=none", "projector=linear"), {"perceiver", "projector"}),
        (("perceiver.num_semantic_tokens=0",), {"perceiver"}),
        (("decoder.hidden_size=40",), {"decoder", "prefix", "projector"}),
        (("backbone.embed_dim=48",), {"backbone", "perceiver", "projector"}),
        (("decoder.num_layers=1",), {"decoder"}),
    ],
)
def test_start_from_a_run_with_other_parts(saved, tiny_model, tiny_recipe, overrides, changed):
    """Shared parts are loaded, each changed one keeps its own start and is reported."""
    former, folder = saved()
    model = tiny_model(*overrides, seed=1)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    fates = start_from(model, tiny_recipe(*overrides), folder)
    assert {name for name, fate in fates.items() if fate != "loaded"} == changed
    assert all(fates[name].startswith("own start") for name in changed)
    before = former.state_dict()
    for name, value in model.state_dict().items():
        expected = own[name] if name.split(".")[0] in changed else before[name]
        assert torch.equal(value, expected), name


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("perceiver.mask_focus=1.0",), {"perceiver": "loaded, made with another mask_focus"}),
        (("perceiver=pam", "perceiver.num_semantic_tokens=3", "perceiver.num_heads=4", "perceiver.mlp_dim=32"), {}),
        (("decoder.lora_rank=2",), {"decoder": "loaded, made with another lora_rank"}),
    ],
)
def test_start_from_a_run_whose_parts_were_asked_for_otherwise(saved, tiny_model, tiny_recipe, overrides, said):
    """Weights are taken over where they fit: under another preset, other switches, or with adapters beside them."""
    former, folder = saved()
    model = tiny_model(*overrides, seed=1)
    fates = start_from(model, tiny_recipe(*overrides), folder)
    assert fates == dict.fromkeys(fates, "loaded") | said
    before, after = former.state_dict(), model.state_dict()
    plain = {name.replace(".base_layer.", "."): value for name, value in after.items() if ".lora_" not in name}
    assert plain.keys() == before.keys() and all(torch.equal(before[name], value) for name, value in plain.items())


def test_a_separator_that_the_former_run_did_not_have_is_new_and_the_others_stay(saved, tiny_model, tiny_recipe):
    """As the one of frames, behind a former run whose backbone followed no clips."""
    former, folder = saved("perceiver.num_semantic_tokens=0")
    model = tiny_model(seed=1)
    own = model.prefix.semantic_newline.clone()
    fates = start_from(model, tiny_recipe(), folder)
    assert fates["prefix"] == "loaded, semantic_newline new"
    assert torch.equal(model.prefix.visual_newline, former.prefix.visual_newline)
    assert torch.equal(model.prefix.semantic_newline, own)


def test_start_from_a_run_that_shares_nothing(saved, tiny_model, tiny_recipe):
    _, folder = saved()
    overrides = ("backbone.embed_dim=48", "perceiver=none", "projector=linear", "decoder.hidden_size=40")
    with pytest.raises(CheckpointError, match="shares no part with this recipe; nothing was loaded"):
        start_from(tiny_model(*overrides), tiny_recipe(*overrides), folder)


def test_start_from_a_run_that_does_not_say_what_its_parts_are(saved, tiny_model, tiny_recipe):
    _, folder = saved()
    (folder / "model/parts.json").unlink()
    with pytest.raises(CheckpointError, match="init_from: .* has no parts.json"):
        start_from(tiny_model(), tiny_recipe(), folder)


def test_start_from_weights_that_are_not_those_of_the_recipe(saved, tiny_model, tiny_recipe):
    _, folder = saved()
    parts = json.loads((folder / "model/parts.json").read_text())
    parts["perceiver"]["arguments"]["num_semantic_tokens"] = 6
    (folder / "model/parts.json").write_text(json.dumps(parts))
    overrides = ("perceiver.num_semantic_tokens=6",)
    with pytest.raises(CheckpointError, match="part perceiver .*another shape in semantic_tokens"):
        start_from(tiny_model(*overrides), tiny_recipe(*overrides), folder)


class Code:
    """Unpickled by Python, it would leave a file behind."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def plain_pickle(value, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors", ".ckpt"])
@pytest.mark.parametrize("write", [torch.save, plain_pickle])
def test_code_in_a_weight_file_is_refused_and_never_runs(tmp_path, suffix, write):
    file, trace = tmp_path / f"weights{suffix}", tmp_path / "trace"
    write({"weight": Code(trace)}, file)
    with pytest.raises(CheckpointError, match="not a readable weight file.*nothing is unpickled") as caught:
        read_weights(file)
    assert "weights_only" not in str(caught.value), "a user is not told how to run the code after all"
    assert not trace.exists()
    pickle.loads(pickle.dumps(Code(trace)))
    assert trace.exists(), "the code does run where it is let"


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_plain_tensor_files_are_read(tmp_path, suffix):
    torch.save({"weight": torch.arange(3.0)}, tmp_path / f"weights{suffix}")
    assert torch.equal(read_weights(tmp_path / f"weights{suffix}")["weight"], torch.arange(3.0))


def test_a_missing_weight_file(tmp_path):
    with pytest.raises(CheckpointError, match="no weight file at .*weights.pt"):
        read_weights(tmp_path / "weights.pt")
