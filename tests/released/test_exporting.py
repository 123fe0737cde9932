"""A run goes back to the released layout: bit for bit where it came from there, refused where it cannot."""

import json

import pytest
import torch
from safetensors.torch import load_file, safe_open
from transformers import AutoTokenizer

from pam_kit.checkpoints import load_model, save_model
from pam_kit.errors import CheckpointError
from pam_kit.model import RegionVLM
from pam_kit.recipe import load_recipe
from pam_kit.released.exporting import export_pam
from pam_kit.released.importing import import_pam
from pam_kit.released.names import released_name


@pytest.fixture(scope="module")
def exported(imported_run, tmp_path_factory):
    """The report, and the folders before and after."""
    folder, run = imported_run
    out = tmp_path_factory.mktemp("exported") / "PAM-again"
    return export_pam(run, out), folder, out


def assert_same_weights(out, folder) -> None:
    first, second = load_file(out / "model.safetensors"), load_file(folder / "model.safetensors")
    assert first.keys() == second.keys()
    for name, tensor in second.items():
        assert first[name].dtype == tensor.dtype and torch.equal(first[name], tensor), name


def test_there_and_back_bit_for_bit(exported):
    _, folder, out = exported
    assert_same_weights(out, folder)
    with safe_open(out / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_the_released_layout_is_no_run(exported):
    _, _, out = exported
    with pytest.raises(CheckpointError, match="layout of the released PAM. `pam-kit import-pam .* makes a run of it"):
        load_model(out)


def test_the_config_is_the_released_one(exported):
    _, folder, out = exported
    assert json.loads((out / "config.json").read_text()) == json.loads((folder / "config.json").read_text())
    ends = json.loads((out / "generation_config.json").read_text())
    assert (ends["bos_token_id"], ends["eos_token_id"], ends["pad_token_id"]) == (0, 2, 0)


def test_the_tokenizer_says_the_same(exported, tokenizer_folder):
    _, _, out = exported
    text = "<|im_start|>user\nA red cup, 杯子.<|im_end|>\n"
    assert (
        AutoTokenizer.from_pretrained(out)(text).input_ids
        == AutoTokenizer.from_pretrained(tokenizer_folder)(text).input_ids
    )
    written = json.loads((out / "tokenizer_config.json").read_text())
    assert {token["content"] for token in written["added_tokens_decoder"].values()} >= {"<|im_start|>", "<|im_end|>"}
    vocabulary = json.loads((out / "vocab.json").read_text())
    assert (out / "merges.txt").read_text().startswith("#version: 0.2\n") and "<|im_end|>" not in vocabulary


def test_the_report_counts_and_warns(exported, released_tensors):
    report, _, out = exported
    assert sum(report.tensors.values()) == len(released_tensors) and report.files == ("model.safetensors",)
    assert "Hiera-L at 1024 pixels; this one: size=tiny, image_size=64" in "\n".join(report.lines())


def test_large_weights_are_split(imported_run, small_sam2, tmp_path):
    folder, run = imported_run
    report = export_pam(run, tmp_path / "split", max_shard_size="12MB")
    assert len(report.files) > 1 and report.files[0].startswith("model-00001-of-")
    import_pam(tmp_path / "split", tmp_path / "run", overrides=small_sam2, whole_vocabulary=True)
    first, second = (load_file(path / "model/model.safetensors") for path in (tmp_path / "run", run))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_trained_run_keeps_the_types_it_stores(imported_run, tmp_path):
    """What was learned in float32 stays so, beside a decoder in bfloat16."""
    model, recipe = load_model(imported_run[1])
    model.prefix.visual_newline.data += 1e-4
    save_model(tmp_path / "run", model, recipe, whole=True)
    export_pam(tmp_path / "run", tmp_path / "out")
    written = load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(written["model.image_newline"], model.prefix.visual_newline)
    assert written["model.image_newline"].dtype == torch.float32
    assert written["model.embed_tokens.weight"].dtype == torch.bfloat16


def test_adapters_are_merged_first(imported_run, tmp_path):
    """A run that learned adapters: the weights beside them are what changes."""
    pytest.importorskip("peft")
    overrides = ("decoder.lora_rank=2", "decoder.lora_targets=[q_proj]")
    recipe = load_recipe(imported_run[1] / "model/recipe.yaml", overrides)
    model = RegionVLM.from_recipe(recipe)
    model.decoder.load_tokenizer(str(imported_run[1] / "model/tokenizer"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    save_model(tmp_path / "run", model, recipe)
    export_pam(tmp_path / "run", tmp_path / "out")
    own = {released_name(name.replace(".base_layer", "")): value for name, value in model.state_dict().items()}
    for name, tensor in load_file(tmp_path / "out/model.safetensors").items():
        assert torch.equal(tensor, own[name].to(tensor.dtype)) == ("q_proj.weight" not in name or "vision" in name), (
            name
        )


def test_a_run_of_other_parts_is_refused(tiny_model, tiny_recipe, tmp_path):
    overrides = ("perceiver.mask_focus=1.0",)
    save_model(tmp_path / "run", tiny_model(*overrides), tiny_recipe(*overrides))
    with pytest.raises(CheckpointError, match="cannot be written as a released PAM") as caught:
        export_pam(tmp_path / "run", tmp_path / "out")
    lines = str(caught.value).splitlines()[1:]
    assert "  backbone is timm_sam; the released code has sam2 alone" in lines
    assert "  perceiver.num_semantic_tokens is 3; the released code has 16" in lines
    assert "  perceiver.mask_focus is 1.0; the released code has 0.0" in lines
    assert "  projector.token_order is row; the released code has column" in lines
    assert "  decoder.template is plain; the released code has chatml" in lines
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == []


def test_a_folder_that_is_there_already(imported_run, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(CheckpointError, match="out is there already"):
        export_pam(imported_run[1], tmp_path / "out")


def test_an_export_that_dies_leaves_nothing(imported_run, tmp_path, monkeypatch):
    monkeypatch.setattr("pam_kit.released.exporting.save_for_released_code", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_pam(imported_run[1], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_golden_checkpoint_there_and_back(golden, tmp_path):
    checkpoint = golden.folder / "ckpt_tiny"
    if not checkpoint.is_dir():
        pytest.skip(f"{checkpoint} is absent")
    _, about = golden.load("e2e/tiny_e2e")
    given = [text.lstrip("+").removeprefix("model.").partition("=") for text in json.loads(about["sam_overrides"])]
    sam2 = {key: json.loads(value) for key, _, value in given if key != "image_size"}
    overrides = ["backbone.size=tiny", "backbone.image_size=256", f"backbone.overrides={json.dumps(sam2)}"]
    tokenizer = golden.folder / "public/tiny_tokenizer"
    report = import_pam(checkpoint, tmp_path / "run", tokenizer=tokenizer, overrides=overrides, whole_vocabulary=True)
    assert sum(report.tensors.values()) == 444 and report.dtype == "float32"
    export_pam(tmp_path / "run", tmp_path / "out")
    assert_same_weights(tmp_path / "out", checkpoint)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "out" / name).read_text()) == json.loads((checkpoint / name).read_text())
