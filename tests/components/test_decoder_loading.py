"""Decoders that come from a folder or the hub, and all that can be wrong with one."""

import pytest
import torch
from transformers import AutoConfig

from pam_kit.components.decoders.causal_lm import CausalLM
from pam_kit.errors import CheckpointError

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
