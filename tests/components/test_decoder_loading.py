"""Decoders that come from a folder or the hub, and all that can be wrong with one."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from pam_kit.components.decoders.causal_lm import CausalLM
from pam_kit.components.decoders.pretrained import read_tokenizer, weight_files
from pam_kit.errors import CheckpointError
from pam_kit.registry import specs
from pam_kit.weights import without_pretrained_weights

SIZES = dict(hidden_size=32, num_layers=2, num_heads=4, vocab_size=320)


def test_pretrained_folder(pretrained_decoder):
    model, folder = pretrained_decoder()
    made = CausalLM(str(folder))
    assert made.embed_dim == 32 and not made.needs_vocabulary()
    with torch.no_grad():
        ids = torch.tensor([made.tokenizer("A red cup, 杯子").input_ids])
        torch.testing.assert_close(made.lm(ids).logits, model(ids).logits)
    with pytest.raises(TypeError, match="its own vocabulary"):
        made.learn_vocabulary(["cup"])


def test_sizes_in_a_recipe_are_checked_against_the_folder(pretrained_decoder):
    _, folder = pretrained_decoder()
    CausalLM(str(folder), num_key_value_heads=2, **SIZES)
    with pytest.raises(CheckpointError, match=r"hidden_size is 32, not 64; num_hidden_layers is 2, not 3"):
        CausalLM(str(folder), hidden_size=64, num_layers=3)


@pytest.mark.parametrize("given", ["nobody/no-such-model", "no-such-folder", "."])
def test_a_path_that_leads_nowhere(monkeypatch, tmp_path, given):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="(?s)cannot load the decoder from .*decoder.path="):
        CausalLM(given)


@pytest.mark.parametrize("missing", ["tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file(pretrained_decoder, missing):
    """Without tokenizer.json transformers makes up a tokenizer that knows no word; it must not pass."""
    _, folder = pretrained_decoder()
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match="cannot load (a tokenizer|the decoder) from"):
        CausalLM(str(folder))


@pytest.fixture
def with_own_code(pretrained_decoder, tmp_path, monkeypatch):
    """``with_own_code(file, **changes)`` -> a decoder's folder of which ``file`` names a module that leaves a trace.

    Whoever is asked whether to run it says yes.
    """
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    trace = tmp_path / "trace"

    def build(name: str, **changes) -> str:
        _, folder = pretrained_decoder()
        (folder / "theirs.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Theirs: pass\n")
        changed = json.loads((folder / name).read_text("utf-8")) | changes
        (folder / name).write_text(json.dumps(changed), encoding="utf-8")
        return str(folder)

    yield build
    assert not trace.exists()


OWN_MODEL = {"AutoConfig": "theirs.Theirs", "AutoModelForCausalLM": "theirs.Theirs"}


@pytest.mark.parametrize("read", [nullcontext, without_pretrained_weights])
def test_a_model_that_brings_its_own_code_is_refused(with_own_code, read):
    folder = with_own_code("config.json", model_type="theirs", auto_map=OWN_MODEL)
    with pytest.raises(CheckpointError, match="is refused: its config.json asks .*theirs.Theirs.*is ever run"):
        with read():
            CausalLM(folder)


def test_a_known_model_is_read_without_the_code_beside_it(with_own_code):
    assert CausalLM(with_own_code("config.json", auto_map=OWN_MODEL)).embed_dim == 32


def test_a_tokenizer_that_brings_its_own_code_is_refused(with_own_code):
    own = {"AutoTokenizer": ["theirs.Theirs", None]}
    folder = with_own_code("tokenizer_config.json", tokenizer_class="Theirs", auto_map=own)
    Path(folder, "config.json").unlink()
    with pytest.raises(CheckpointError, match="decoder' is refused: its tokenizer_config.json asks .*theirs.Theirs"):
        read_tokenizer(folder)


def test_a_tokenizer_larger_than_the_embedding_is_refused(pretrained_decoder):
    _, folder = pretrained_decoder(vocab_size=270)
    with pytest.raises(CheckpointError, match="tokenizer has 3.. entries.*only 270"):
        CausalLM(str(folder))
    with pytest.raises(CheckpointError, match="tokenizer has 259 entries.*only 100"):
        CausalLM(**{**SIZES, "vocab_size": 100}).learn_vocabulary(["cup"])


def test_sizes_that_a_random_decoder_needs():
    with pytest.raises(CheckpointError, match="missing: num_hidden_layers, num_attention_heads, vocab_size"):
        CausalLM(hidden_size=32)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, dict(num_key_value_heads=4, intermediate_size=128, max_position_embeddings=32768)),
        (
            dict(num_key_value_heads=2, intermediate_size=48, max_length=99),
            dict(num_key_value_heads=2, intermediate_size=48, max_position_embeddings=99),
        ),
    ],
)
def test_sizes_reach_the_model(arguments, expected):
    config = CausalLM(**SIZES, **arguments).lm.config
    given = dict(model_type="qwen2", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=320)
    assert {key: getattr(config, key) for key in given | expected} == given | expected


def test_what_the_sizes_do_not_say_is_kept_with_the_tokenizer(pretrained_decoder, tmp_path):
    """A checkpoint is loaded into a model built from sizes; the folder's rope base is not among them."""
    _, folder = pretrained_decoder()
    CausalLM(str(folder)).save_tokenizer(str(tmp_path / "saved"))
    torch.manual_seed(0)
    rebuilt = CausalLM(**SIZES, num_key_value_heads=2, intermediate_size=64)
    assert rebuilt.lm.config.rope_parameters["rope_theta"] != 1e6
    rebuilt.load_tokenizer(str(tmp_path / "saved"))
    assert rebuilt.lm.config.rope_parameters["rope_theta"] == 1e6
    assert AutoConfig.from_pretrained(folder).rope_parameters == rebuilt.lm.config.rope_parameters


@pytest.mark.parametrize(("rows", "given"), [(320, None), (330, 330), (500, 500)])
def test_a_vocabulary_of_another_size(pretrained_decoder, tmp_path, rows, given):
    """The rows of known words stay; null is one row for each entry of the tokenizer."""
    model, folder = pretrained_decoder(vocab_size=400)
    sizes = {**SIZES, "vocab_size": given}
    made = CausalLM(str(folder), resize_vocabulary=True, **sizes)
    entries = len(made.tokenizer)
    rows = rows if given else entries
    assert made.vocabulary_size == made.lm.config.vocab_size == rows and made.lm.get_output_embeddings() is not None
    weight = made.lm.get_input_embeddings().weight
    assert weight.shape == (rows, 32) and made.lm.get_output_embeddings().weight is weight
    kept = min(rows, 400)
    assert torch.equal(weight[:kept], model.get_input_embeddings().weight[:kept])
    with pytest.raises(CheckpointError, match=f"vocab_size is 400, not {rows}"):
        CausalLM(str(folder), **{**SIZES, "vocab_size": rows})


def test_a_resized_model_is_read_again_as_it_was_saved(pretrained_decoder, tmp_path):
    """A checkpoint's decoder is built from the recipe's sizes alone."""
    _, folder = pretrained_decoder(vocab_size=400)
    sizes = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 64, "vocab_size": 330}
    made = CausalLM(str(folder), resize_vocabulary=True, **sizes)
    made.save_tokenizer(str(tmp_path / "saved"))
    for only in (sizes, {"vocab_size": 330}):
        with without_pretrained_weights():
            again = CausalLM(str(folder), resize_vocabulary=True, **only)
        again.load_tokenizer(str(tmp_path / "saved"))
        again.load_state_dict(made.state_dict())
        assert again.lm.config.rope_parameters["rope_theta"] == 1e6 and again.weight_files == ()


@pytest.mark.parametrize("name", ["pam_1_5b", "pam_3b"])
def test_pam_is_qwen_with_the_released_codes_choices(name):
    """The vocabulary has one row for each entry of Qwen2.5's tokenizer, as the released loader leaves it."""
    known = specs("decoder")
    pam, qwen = (dict(known[of].preset) for of in (name, name.replace("pam", "qwen2_5")))
    added = dict(
        vocab_size=151665, resize_vocabulary=True, template="chatml", supervision="released", max_positions=12288
    )
    assert pam == qwen | added


def test_files_of_the_weights(pretrained_decoder, tmp_path):
    """One file, or the shards that an index names; random weights have none."""
    model, folder = pretrained_decoder()
    assert CausalLM(str(folder)).weight_files == (folder / "model.safetensors",)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="30KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1 and CausalLM(str(folder)).weight_files == tuple(shards)
    assert CausalLM(**SIZES).weight_files == ()


def test_files_of_weights_from_the_hub_are_those_in_its_cache(pretrained_decoder, tmp_path, monkeypatch):
    """A cache as huggingface_hub lays it out: a folder for each revision, and the name of the newest."""
    _, folder = pretrained_decoder()
    cache = tmp_path / "hub" / "models--somebody--small"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc")
    shutil.copytree(folder, cache / "snapshots" / "abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert weight_files("somebody/small") == (cache / "snapshots" / "abc" / "model.safetensors",)
    with pytest.raises(CheckpointError, match="somebody/other has none of model.safetensors"):
        weight_files("somebody/other")
