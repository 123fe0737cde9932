"""Stored is what no other file has; the rest is found again in the weight files, or a run says what it misses."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pam_kit.checkpoints import find_left_out, frozen_tensors, load_model, save_model, start_from
from pam_kit.errors import CheckpointError
from pam_kit.model import RegionVLM
from pam_kit.recipe import load_recipe
from pam_kit.training.stage import freeze_all_but
from pam_kit.weights import sha256

SIZES = ("decoder.num_key_value_heads=2", "decoder.intermediate_size=64", "decoder.vocab_size=320")


@pytest.fixture
def stage1(pretrained_decoder, tiny_model, tiny_recipe):
    """``stage1(*overrides)`` -> a model on a frozen pretrained decoder, its recipe, and the decoder's folder."""

    def build(*overrides: str, trainable=("perceiver", "projector", "prefix"), rows=320):
        _, path = pretrained_decoder(vocab_size=rows)
        overrides = (f"decoder.path={path}", *SIZES, *overrides)
        model = tiny_model(*overrides)
        freeze_all_but(model, list(trainable))
        return model, tiny_recipe(*overrides), path

    return build


def stored_names(folder) -> set[str]:
    return set(load_file(folder / "model" / "model.safetensors"))


def assert_same_state(one: torch.nn.Module, other: torch.nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def varied(tensor: torch.Tensor) -> bool:
    return bool((tensor != tensor.flatten()[0]).any())


def test_frozen_weights_stay_in_their_file(stage1, tmp_path, sample_batch):
    model, recipe, path = stage1()
    save_model(tmp_path / "run", model, recipe)
    decoder = {name: value for name, value in model.state_dict().items() if name.startswith("decoder.")}
    kept = stored_names(tmp_path / "run") & set(decoder)
    # Norms of nothing but ones would be found anywhere.
    assert kept == {name for name, value in decoder.items() if not varied(value)} and len(kept) < len(decoder) / 2
    record = json.loads((tmp_path / "run/model/parts.json").read_text())
    file = path / "model.safetensors"
    assert record["decoder"]["weight_files"] == [{"file": "model.safetensors", "sha256": sha256(file)}]
    assert record["decoder"]["left_out"] == len(decoder) - len(kept)
    # The backbone of these tests is random: it is in no file, and frozen all the same.
    assert "left_out" not in record["backbone"]
    loaded, _ = load_model(tmp_path / "run")
    assert_same_state(loaded, model)
    batch = sample_batch()
    with torch.inference_mode():
        assert torch.equal(loaded(batch).text.per_question, model(batch).text.per_question)


def test_a_run_is_small(stage1, tmp_path):
    model, recipe, _ = stage1()
    model.backbone = torch.nn.Identity()
    model.backbone.weight_files = ()
    small = save_model(tmp_path / "small", model, recipe) / "model.safetensors"
    whole = save_model(tmp_path / "whole", model, recipe, whole=True) / "model.safetensors"
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    assert trained < small.stat().st_size < trained + 16_000
    decoder = {p for p in model.decoder.parameters()}
    assert whole.stat().st_size > trained + sum(p.numel() * p.element_size() for p in decoder)


def test_what_is_whole_needs_no_other_file(stage1, tmp_path):
    model, recipe, path = stage1()
    save_model(tmp_path / "run", model, recipe, whole=True)
    path.rename(path.with_name("gone"))
    assert_same_state(load_model(tmp_path / "run")[0], model)


def test_what_was_trained_is_stored(stage1, tmp_path):
    model, recipe, _ = stage1(trainable=["decoder"])
    assert not find_left_out(model).names
    save_model(tmp_path / "run", model, recipe)
    # The input table and the output projection are one tensor.
    assert stored_names(tmp_path / "run") == set(model.state_dict()) - {"decoder.lm.lm_head.weight"}


def test_a_frozen_tensor_that_has_changed_is_stored(stage1, tmp_path):
    model, recipe, _ = stage1()
    name = "lm.model.layers.1.mlp.up_proj.weight"
    model.decoder.get_parameter(name).data[3, 4] += 1
    save_model(tmp_path / "run", model, recipe)
    assert f"decoder.{name}" in stored_names(tmp_path / "run")
    assert f"decoder.{name}".replace("1", "0") not in stored_names(tmp_path / "run")
    assert_same_state(load_model(tmp_path / "run")[0], model)


def test_a_vocabulary_that_was_cut_is_found(stage1, tmp_path):
    model, recipe, path = stage1("decoder.resize_vocabulary=true", rows=336)
    table = load_file(path / "model.safetensors")["model.embed_tokens.weight"]
    assert len(table) == 336 and len(model.decoder.lm.get_input_embeddings().weight) == 320
    save_model(tmp_path / "run", model, recipe)
    tables = {"decoder.lm.model.embed_tokens.weight", "decoder.lm.lm_head.weight"}
    assert tables <= set(model.state_dict()) and tables.isdisjoint(stored_names(tmp_path / "run"))
    assert_same_state(load_model(tmp_path / "run")[0], model)


def test_part_of_a_part_may_learn(stage1, tmp_path):
    """As with an adapter: the frozen rest is left out."""
    model, recipe, _ = stage1(trainable=["decoder"])
    model.decoder.requires_grad_(False)
    model.decoder.lm.model.layers[0].requires_grad_(True)
    save_model(tmp_path / "run", model, recipe)
    stored = {name for name in stored_names(tmp_path / "run") if name.startswith("decoder.")}
    assert {name for name in stored if varied(model.state_dict()[name])} <= {
        name for name in stored if ".layers.0." in name
    }
    assert_same_state(load_model(tmp_path / "run")[0], model)


def test_packed_weights_are_never_stored(stage1):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model, _, _ = stage1()
    packed = bitsandbytes.nn.Linear4bit(32, 64, bias=True, quant_type="nf4")
    packed.load_state_dict({"weight": torch.randn(64, 32), "bias": torch.randn(64)})
    model.decoder.lm.model.layers[0].mlp.up_proj = packed.to("cpu").requires_grad_(False)
    names = {name for name in model.state_dict() if ".layers.0.mlp.up_proj." in name}
    assert len(names) > 2
    bias = "decoder.lm.model.layers.0.mlp.up_proj.bias"
    assert names - find_left_out(model).names == {bias}


@pytest.mark.parametrize("quantize", ["null", "nf4"])
def test_adapters_alone_are_stored(stage1, tmp_path, quantize):
    pytest.importorskip("peft")
    model, recipe, path = stage1("decoder.lora_rank=2", f"decoder.quantize={quantize}", trainable=["decoder"])
    with torch.no_grad():
        for name, parameter in model.decoder.named_parameters():
            if parameter.requires_grad:
                assert ".lora_" in name
                parameter.add_(torch.randn_like(parameter))
    save_model(tmp_path / "run", model, recipe)
    state = model.state_dict()
    stored = {name for name in stored_names(tmp_path / "run") if name.startswith("decoder.") and varied(state[name])}
    assert stored == {name for name in state if ".lora_" in name}
    loaded, _ = load_model(tmp_path / "run")
    assert_same_state(loaded, model)
    another = RegionVLM.from_recipe(recipe)
    assert start_from(another, recipe, tmp_path / "run")["decoder"] == "loaded, the rest from its own weight file"
    assert_same_state(another, model)
    if quantize != "null":
        with pytest.raises(CheckpointError, match="quantised.* load the run with decoder.quantize=null"):
            save_model(tmp_path / "whole", model, recipe, whole=True)
        plain, recipe = load_model(tmp_path / "run", ("decoder.quantize=null",))
        save_model(tmp_path / "whole", plain, recipe, whole=True)
        assert_same_state(load_model(tmp_path / "whole")[0], plain)
    file = path / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="expected SHA-256"):
        load_model(tmp_path / "run")


def test_weights_that_have_moved(stage1, tmp_path):
    model, recipe, path = stage1()
    save_model(tmp_path / "run", model, recipe)
    digest = sha256(path / "model.safetensors")
    moved = path.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="cannot load the decoder") as caught:
        load_model(tmp_path / "run")
    assert digest in str(caught.value) and "decoder.path=/path" in str(caught.value)
    assert_same_state(load_model(tmp_path / "run", (f"decoder.path={moved}",))[0], model)


def test_other_weights_under_the_same_name(stage1, tmp_path):
    model, recipe, path = stage1()
    save_model(tmp_path / "run", model, recipe)
    file = path / "model.safetensors"
    expected = sha256(file)
    save_file({name: value + 1 for name, value in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="decoder.path=/path") as caught:
        load_model(tmp_path / "run")
    assert all(part in str(caught.value) for part in (str(file), expected, sha256(file)))


def test_a_run_starts_from_one_that_stored_little(stage1, tmp_path):
    former, recipe, path = stage1()
    save_model(tmp_path / "run", former, recipe)
    torch.manual_seed(5)
    model = RegionVLM.from_recipe(recipe)
    assert start_from(model, recipe, tmp_path / "run") == {
        **dict.fromkeys(("backbone", "perceiver", "projector", "prefix"), "loaded"),
        "decoder": "loaded, the rest from its own weight file",
    }
    assert_same_state(former, model)
    moved = path.rename(tmp_path / "moved")
    recipe = load_recipe(recipe.source, [*recipe.overrides, f"decoder.path={moved}"])
    model = RegionVLM.from_recipe(recipe)
    assert start_from(model, recipe, tmp_path / "run")["decoder"].endswith("from its own weight file")
    assert_same_state(former, model)


def test_a_run_starts_from_one_on_other_weights(stage1, tmp_path):
    former, recipe, path = stage1()
    save_model(tmp_path / "run", former, recipe)
    file = path / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file, {"format": "pt"})
    model = RegionVLM.from_recipe(recipe)
    with pytest.warns(UserWarning, match="decoder of the former run .* another weight file"):
        fates = start_from(model, recipe, tmp_path / "run")
    assert fates["decoder"].endswith("which is another one than the former run's")
    assert fates["perceiver"] == "loaded"


def test_what_an_earlier_stage_taught_is_stored_again(stage1, tmp_path):
    """Stage 2 trains the decoder, stage 3 freezes it: its file no longer has its weights."""
    taught, recipe, _ = stage1(trainable=["decoder"])
    with torch.no_grad():
        for parameter in taught.decoder.parameters():
            parameter.add_(torch.randn_like(parameter))
    save_model(tmp_path / "stage2", taught, recipe)
    model, _, _ = stage1()
    start_from(model, recipe, tmp_path / "stage2")
    save_model(tmp_path / "stage3", model, recipe)
    assert_same_state(load_model(tmp_path / "stage3")[0], taught)


def test_the_stage_before_must_be_there(tiny_model, tiny_recipe, tmp_path):
    with pytest.raises(CheckpointError, match="init_from: .*stage1 is not a finished run") as caught:
        start_from(tiny_model(), tiny_recipe(), tmp_path / "stage1")
    assert "pam-kit fit stage1" in str(caught.value) and "init_from=null" in str(caught.value)


def test_the_first_stage_of_pam_3b_stores_less_than_100_mb():
    recipe = load_recipe("pam_3b_stage1", ["data.root=/data"])
    with torch.device("meta"):
        model = RegionVLM.from_recipe(recipe)
    freeze_all_but(model, recipe.train.trainable)
    # SAM 2's and Qwen's files hold all of them.
    in_files = {f"{part}.{name}" for part in ("backbone", "decoder") for name in frozen_tensors(getattr(model, part))}
    stored = {name: value for name, value in model.state_dict().items() if name not in in_files}
    assert {name.partition(".")[0] for name in stored} == {"perceiver", "projector", "prefix"}
    assert sum(value.numel() * 4 for value in stored.values()) < 100e6
