"""A released folder becomes a run: every value kept, every misfit listed, nothing written where something is wrong."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pam_kit import checkpoints
from pam_kit.checkpoints import load_model
from pam_kit.components.decoders.vocabulary import learn_tokenizer
from pam_kit.errors import CheckpointError, RecipeError
from pam_kit.released.importing import import_pam

TOWER = "model.vision_tower.sam2_model_predictor."
WORDS = "model.embed_tokens.weight"


@pytest.fixture
def bring_in(small_sam2, tmp_path):
    """``bring_in(folder, **options)`` -> the report; the run lies in ``tmp_path / "run"``."""

    def run(folder, *overrides, **options):
        return import_pam(folder, tmp_path / "run", overrides=[*small_sam2, *overrides], **options)

    return run


@pytest.fixture
def refused(bring_in, tmp_path):
    """``refused(folder, match, ...)`` -> the message; nothing may have been written."""

    def run(folder, match: str, *overrides, error=CheckpointError, **options) -> str:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(error, match=match) as caught:
            bring_in(folder, *overrides, **options)
        assert sorted(tmp_path.rglob("*")) == before
        return str(caught.value)

    return run


def stored(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model/model.safetensors")


def test_every_value_and_type_is_kept(imported_run, released_tensors):
    folder, run = imported_run
    own = stored(run)
    assert len(own) == len(released_tensors) and {tensor.dtype for tensor in own.values()} == {torch.bfloat16}
    some = {
        "backbone.model.sam_mask_decoder.iou_token.weight": f"{TOWER}sam_mask_decoder.iou_token.weight",
        "perceiver.semantic_tokens": "model.vision_resampler.sem_tokens.weight",
        "perceiver.transformer.blocks.1.mlp.2.bias": "model.vision_resampler.layers.1.mlp.layers.1.bias",
        "projector.narrow.weight": "model.vision_resampler.proj.weight",
        "projector.semantic.2.weight": "model.mm_projector_semT.2.weight",
        "decoder.lm.model.embed_tokens.weight": WORDS,
        "decoder.lm.model.layers.1.self_attn.k_proj.bias": "model.layers.1.self_attn.k_proj.bias",
        "prefix.frame_newline": "model.frame_newline",
    }
    assert all(torch.equal(own[name], released_tensors[released]) for name, released in some.items())
    # No tensor is there twice, and none is another one's: noise does not repeat.
    sums = {name: float(tensor.float().sum()) for name, tensor in own.items()}
    assert sorted(sums.values()) == sorted(float(tensor.float().sum()) for tensor in released_tensors.values())


def test_the_run_is_a_model_that_answers(imported_run, sample_batch):
    model, recipe = load_model(imported_run[1])
    assert recipe.model.decoder.arguments["supervision"] == "released"
    config = model.decoder.lm.config
    assert config.rope_parameters["rope_theta"] == 20000 and config.rms_norm_eps == 1e-5
    assert (model.decoder.max_positions, config.max_position_embeddings) == (9000, 16384)
    batch = sample_batch(regions=(2,), questions=2)
    regions, answers = model.answer(batch.images, batch.image_index, batch.prompts, batch.questions, 2)
    assert regions.mask_logits.isfinite().all() and len(answers) == 2


def test_the_report_says_what_was_read(released_folder, bring_in, tmp_path):
    report = bring_in(released_folder())
    lines = "\n".join(report.lines())
    model, _ = load_model(tmp_path / "run")
    assert report.parameters["projector"] == sum(p.numel() for p in model.projector.parameters())
    assert report.tensors["perceiver"] == 84 and report.tensors["prefix"] == 3 and report.dtype == "bfloat16"
    assert f"read        {tmp_path / 'PAM-tiny'}, decoder in bfloat16" in lines
    assert f"tensors in {tmp_path / 'PAM-tiny'}" in report.sam2 and f"run         {tmp_path / 'run'}" in lines


def test_the_vocabulary_is_cut_to_the_tokenizer(released_folder, bring_in, released_tensors, tmp_path):
    report = bring_in(released_folder())
    model, recipe = load_model(tmp_path / "run")
    entries = len(model.decoder.tokenizer)
    assert report.vocabulary == (320, entries) and entries < 320
    assert recipe.model.decoder.arguments["vocab_size"] == entries
    table = model.decoder.lm.get_input_embeddings().weight
    assert torch.equal(table, released_tensors[WORDS][:entries])
    assert table is model.decoder.lm.get_output_embeddings().weight


def write_sharded(folder: Path, suffix: str) -> None:
    """Split the weight file into three, with an index, as transformers does."""
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem, weight_map = "model" if suffix == ".safetensors" else "pytorch_model", {}
    for shard in range(3):
        name = f"{stem}-0000{shard + 1}-of-00003{suffix}"
        part = {key: whole[key] for key in sorted(whole)[shard::3]}
        save_file(part, folder / name) if suffix == ".safetensors" else torch.save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_weights_in_several_files(released_folder, bring_in, imported_run, tmp_path, suffix):
    folder = released_folder()
    write_sharded(folder, suffix)
    bring_in(folder, whole_vocabulary=True)
    own, expected = stored(tmp_path / "run"), stored(imported_run[1])
    assert own.keys() == expected.keys() and all(torch.equal(own[key], expected[key]) for key in own)


@pytest.mark.parametrize("form", ["published", "safetensors"])
def test_sam2_from_its_own_file(released_folder, bring_in, released_tensors, tmp_path, form):
    """It is what the releases need, and wins over a vision tower in the folder."""
    given = {n.removeprefix(TOWER): t.float() + 1 for n, t in released_tensors.items() if n.startswith(TOWER)}
    file = tmp_path / ("sam2.pt" if form == "published" else "sam2.safetensors")
    torch.save({"model": given}, file) if form == "published" else save_file(given, file)
    report = bring_in(released_folder(tower=form == "safetensors"), sam2=file)
    own = {
        n.removeprefix("backbone.model."): t for n, t in stored(tmp_path / "run").items() if n.startswith("backbone")
    }
    assert own.keys() == given.keys()
    assert all(own[name].dtype == torch.float32 and torch.equal(own[name], given[name]) for name in given)
    assert report.sam2.startswith(str(file)) and ("left alone" in report.sam2) == (form == "safetensors")


def test_no_sam2_at_all(released_folder, refused):
    assert "sam2.1_hiera_large.pt" in refused(released_folder(tower=False), "no weights of SAM 2.*--sam2")


def test_a_sam2_of_another_size(released_folder, refused, tmp_path):
    save_file({"no_mem_embed": torch.zeros(1, 1, 8)}, tmp_path / "sam2.safetensors")
    text = refused(released_folder(), "does not fit", sam2=tmp_path / "sam2.safetensors")
    assert f"of another shape: {TOWER}no_mem_embed is (1, 1, 8), not (1, 1, 256)" in text
    assert f"missing: {TOWER}maskmem_tpos_enc" in text


def test_all_misfits_are_listed_together(released_folder, refused):
    changed = {
        "model.image_newline": torch.zeros(31),
        "model.norm.weight": None,
        "model.vision_resampler.layers.0.norm2.bias": None,
        "model.mm_projector.0.weight": torch.zeros(2),
    }
    text = refused(released_folder(changed), "does not fit; 4 tensors")
    assert text.splitlines()[1:] == [
        "  missing: model.vision_resampler.layers.0.norm2.bias",
        "  missing: model.norm.weight",
        "  unknown: model.mm_projector.0.weight",
        "  of another shape: model.image_newline is (31,), not (32,)",
    ]


def test_tied_logits_may_be_stored(released_folder, bring_in, released_tensors, imported_run, tmp_path):
    bring_in(released_folder({"lm_head.weight": released_tensors[WORDS].clone()}), whole_vocabulary=True)
    assert stored(tmp_path / "run").keys() == stored(imported_run[1]).keys()


def test_tied_logits_that_differ(released_folder, refused, released_tensors):
    changed = {"lm_head.weight": released_tensors[WORDS] + 1}
    refused(released_folder(changed), "lm_head.weight differs from model.embed_tokens.weight")


def test_untied_logits(released_folder, bring_in, released_tensors, tmp_path):
    logits = released_tensors[WORDS] + 1
    bring_in(released_folder({"lm_head.weight": logits}, {"tie_word_embeddings": False}))
    own = load_model(tmp_path / "run")[0].decoder.lm.get_output_embeddings().weight
    assert torch.equal(own, logits[: len(own)]) and len(own) < len(logits)


def test_untied_logits_that_are_absent(released_folder, refused):
    refused(released_folder(config={"tie_word_embeddings": False}), "missing: lm_head.weight")


class Code:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_code_in_a_weight_file_never_runs(released_folder, refused, tmp_path):
    folder = released_folder()
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Code(tmp_path / "trace")}, folder / "pytorch_model.bin")
    refused(folder, "nothing is unpickled")
    save_file({"model.norm.weight": torch.zeros(1)}, folder / "model.safetensors")
    torch.save({"model": {"weight": Code(tmp_path / "trace")}}, tmp_path / "sam2.pt")
    refused(folder, "nothing is unpickled", sam2=tmp_path / "sam2.pt")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "llava"}, "of a model of type 'llava'; a released PAM is 'llava_qwen'"),
        ({"hidden_size": None, "vocab_size": "many"}, "lacks the sizes of its language model: hidden_size, vocab_size"),
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear', not 'mlp2x_gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window is True, not False"),
        ({"num_attention_heads": 3}, "of another shape: model.layers.0.self_attn.q_proj.weight"),
        ({"vocab_size": 300}, "of another shape: model.embed_tokens.weight is .320, 32."),
        ({"vocab_size": 8}, "only embeds 8 of them"),
    ],
)
def test_a_config_of_something_else(released_folder, refused, config, message):
    refused(released_folder(config=config), message, whole_vocabulary=True)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder(released_folder, refused, missing):
    folder = released_folder()
    for file in [folder / missing, *(folder.glob("tokenizer*") if missing == "tokenizer.json" else ())]:
        file.unlink(missing_ok=True)
    refused(
        folder, {"config.json": "has no config.json", "model.safetensors": "has no weights"}.get(missing, "--tokenizer")
    )


def test_no_folder(refused, tmp_path):
    refused(tmp_path / "nothing", "nothing is no folder; give the folder of a released PAM")


def test_a_damaged_weight_file(released_folder, refused):
    file = released_folder() / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(file.parent, "model.safetensors is not a readable weight file")


def test_an_index_that_does_not_hold(released_folder, refused):
    folder = released_folder()
    write_sharded(folder, ".safetensors")
    index = folder / "model.safetensors.index.json"
    written = json.loads(index.read_text())
    index.write_text(
        json.dumps({"weight_map": written["weight_map"] | {"model.more": "model-00001-of-00003.safetensors"}})
    )
    refused(folder, "the index promises what no file holds: model.more")
    index.write_text(json.dumps({"weight_map": written["weight_map"] | {"model.more": "../elsewhere.safetensors"}}))
    refused(folder, "has no weight_map from tensors to files beside it")
    index.write_text(json.dumps(written))
    (folder / "model-00002-of-00003.safetensors").unlink()
    refused(folder, "lacks model-00002-of-00003.safetensors")


def test_a_tokenizer_of_another_folder(released_folder, bring_in, refused, tokenizer_folder, tmp_path):
    folder = released_folder(tokenizer=False)
    large = tmp_path / "large"
    learn_tokenizer([f"word{i} and more of {i * 7919}" for i in range(500)], 400).save_pretrained(large)
    refused(folder, "only embeds 320 of them; give its own tokenizer", tokenizer=large)
    bring_in(folder, tokenizer=tokenizer_folder)
    assert load_model(tmp_path / "run")[0].decoder.tokenizer("cup").input_ids


def test_what_config_json_says_cannot_be_overridden(released_folder, refused):
    refused(released_folder(), "decoder.hidden_size cannot be changed", "decoder.hidden_size=64")


def test_a_wrong_override(released_folder, refused):
    refused(released_folder(), "did you mean 'selection'", "backbone.selektion=best", error=RecipeError)


def test_a_run_that_is_there_already(released_folder, refused, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    refused(released_folder(), "run is there already; choose another --out")


@pytest.mark.parametrize("empty", [False, True], ids=["no folder", "an empty folder"])
def test_a_save_that_dies_leaves_nothing(released_folder, bring_in, monkeypatch, tmp_path, empty):
    folder = released_folder()
    if empty:
        (tmp_path / "run").mkdir()
    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints.save, "resolved_yaml", interrupt)
        bring_in(folder)
    assert sorted(tmp_path.iterdir()) == before
    bring_in(folder)
    load_model(tmp_path / "run")


def interrupt(*_arguments):
    raise KeyboardInterrupt
