"""Recomputed and compiled layers compute what plain ones do, under the same names."""

from dataclasses import replace
from functools import partialmethod

import pytest
import torch

from pam_kit.contracts import Questions
from pam_kit.errors import RecipeError
from pam_kit.training.layers import compile_parts, gathered, prepare_layers, recompute_layers
from pam_kit.training.module import RegionTrainer
from pam_kit.training.stage import freeze_all_but

EVERYTHING = ["backbone", "perceiver", "projector", "prefix", "decoder"]


def loss_and_gradients(model, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    torch.manual_seed(0)
    loss = model(batch).text.loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def kept_for_backward(model, batch) -> int:
    """Numbers that the forward pass keeps for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(batch)
    assert output.text.loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("trainable", [EVERYTHING, ["perceiver", "projector", "prefix"]])
def test_recomputed_layers_change_no_bit(tiny_model, sample_batch, trainable):
    """Also in a frozen decoder in eval mode, through which the parts ahead of it learn; attention drops out."""
    model, batch = tiny_model(), sample_batch()
    freeze_all_but(model, trainable)
    model.decoder.lm.config.attention_dropout = 0.1
    model.train("decoder" in trainable)
    names, plain, memory = list(model.state_dict()), loss_and_gradients(model, batch), kept_for_backward(model, batch)
    recompute_layers(model.decoder)
    again = loss_and_gradients(model, batch)
    assert torch.equal(plain[0], again[0]) and plain[1].keys() == again[1].keys()
    assert all(torch.equal(gradient, again[1][name]) for name, gradient in plain[1].items())
    assert list(model.state_dict()) == names
    assert kept_for_backward(model, batch) < 0.8 * memory


def test_recomputed_layers_answer_as_before(tiny_model, sample_batch):
    model, batch = tiny_model(), sample_batch()
    ask = (batch.images, batch.image_index, batch.prompts, batch.questions, 5)
    plain = model.answer(*ask)[1]
    recompute_layers(model.decoder)
    assert model.answer(*ask)[1] == plain


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_layers_learn_the_same(tiny_model, sample_batch, monkeypatch, backend):
    """On top of recomputing, with batches of two lengths. What is traced is the same without a minute of C++."""
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend=backend))
    model = tiny_model("decoder.num_layers=1")
    freeze_all_but(model, EVERYTHING)
    short = sample_batch(regions=(1,), questions=1)
    long = sample_batch(regions=(1, 1), questions=2)
    names, plain = list(model.state_dict()), [loss_and_gradients(model, batch) for batch in (short, long)]
    recompute_layers(model.decoder)
    compile_parts(model, ["decoder"])
    for batch, (loss, gradients) in zip((short, long), plain, strict=True):
        again = loss_and_gradients(model, batch)
        torch.testing.assert_close(again[0], loss, rtol=0, atol=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(again[1][name], gradient, rtol=0, atol=1e-6, msg=name)
    assert list(model.state_dict()) == names
    assert all(layer._compiled_call_impl is not None for layer in model.decoder.layers())


@pytest.mark.slow
@pytest.mark.parametrize("part", ["perceiver", "projector"])
def test_a_compiled_part_learns_the_same(tiny_model, sample_batch, part):
    model, batch = tiny_model(), sample_batch()
    freeze_all_but(model, EVERYTHING)
    names, (loss, gradients) = list(model.state_dict()), loss_and_gradients(model, batch)
    compile_parts(model, [part])
    again = loss_and_gradients(model, batch)
    torch.testing.assert_close(again[0], loss, rtol=0, atol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(again[1][name], gradient, rtol=1e-5, atol=1e-6, msg=name)
    assert list(model.state_dict()) == names


def test_only_known_parts_are_compiled(tiny_recipe):
    with pytest.raises(RecipeError, match="unknown part 'decoders'; did you mean 'decoder'"):
        tiny_recipe("train.compile=[decoders]")


def test_layers_are_prepared_once(tiny_recipe, tiny_model):
    """Lightning may ask for it again, and a layer recomputed within a recomputed one would be recomputed twice."""
    task = RegionTrainer(tiny_recipe("train.activation_checkpointing=true"), tiny_model(), max_steps=1)
    task.configure_model()
    once = [layer.forward for layer in task.model.decoder.layers()]
    task.configure_model()
    assert [layer.forward for layer in task.model.decoder.layers()] == once


def test_nothing_is_done_to_a_model_that_asks_for_nothing(tiny_recipe, tiny_model):
    task = RegionTrainer(tiny_recipe(), tiny_model(), max_steps=1)
    prepare_layers(task, task.model, task.recipe.train)
    for layer in task.model.decoder.layers():
        assert "forward" not in vars(layer) and layer._compiled_call_impl is None
    with gathered(task):
        assert not task.model.decoder.one_pass


def test_one_pass_visits_each_layer_once(tiny_model, sample_batch):
    """However unlike the answers are in length, and to the same losses."""
    model, batch = tiny_model(), sample_batch()
    answers = ["cup", "a" * 90, "cup", "cup", "ball"]
    questions = Questions(batch.questions.region_index, ["what?"] * 5, answers, ["caption"] * 5, ["en"] * 5)
    visits = []
    model.decoder.layers()[0].register_forward_hook(lambda *_: visits.append(1))
    split = model(replace(batch, questions=questions)).text
    assert len(visits) == 2
    model.decoder.one_pass = True
    whole = model(replace(batch, questions=questions)).text
    assert len(visits) == 3
    torch.testing.assert_close(whole.per_question, split.per_question, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole.loss, split.loss, rtol=0, atol=1e-5)
