"""Previews: what they show, that they stay the same, and that training does not notice them."""

import json
import random
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, SingleDeviceStrategy
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pam_kit.contracts import Region, RegionPrompt, RegionSample
from pam_kit.data.mixture import Mixture
from pam_kit.errors import BrokenSample, PamKitError
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.sections import TRAINABLE_PARTS
from pam_kit.tasks import question
from pam_kit.training.fit import fit
from pam_kit.training.module import RegionTrainer
from pam_kit.training.previews import Previews, Shown, draw_preview, shown_regions
from pam_kit.training.strategies import FullyShardedStrategy

CPU = ("train.accelerator=cpu", "train.devices=1", "train.num_threads=1", "data.num_workers=0")
# Two training pictures, and so two pictures a preview.
STEPS = (
    "data.train.num_samples=2",
    "train.max_steps=4",
    "train.global_batch_size=4",
    "train.device_batch_size=2",
    "train.log_every=1",
)
SHORT = ("data.tasks={recognize: 1}", "data.languages={en: 1}", "evaluate.max_new_tokens=4")
EVERYTHING = f"train.trainable=[{','.join(TRAINABLE_PARTS)}]"


class Pictures:
    """Grey pictures of one square each; the ones of ``broken`` cannot be read."""

    def __init__(self, texts=None, length=6, broken=(), mask=True, prompt=None):
        self.regions_texts = texts or {"recognize": {"en": "cup", "zh": "杯子"}, "caption": {"en": "A cup."}}
        self.length, self.broken, self.mask, self.prompt = length, broken, mask, prompt

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.broken:
            raise BrokenSample(f"pictures:{index}", "torn")
        mask = np.zeros((40, 60), dtype=bool)
        mask[10:20, 5 + index % 20 : 30] = True
        region = Region("r", self.prompt, mask if self.mask else None, self.regions_texts)
        return RegionSample(f"pictures:{index}", np.full((40, 60, 3), 128, dtype=np.uint8), [region])


class Clips(Pictures):
    clips = True

    def __getitem__(self, index):
        raise AssertionError("clips are not read")


def mixed(*sets) -> Mixture:
    return Mixture(sets, [1.0] * len(sets), 1, 0)


def sources(shown: list[Shown]) -> list[str]:
    return [one.sample.source for one in shown]


def run(recipe, root, say=lambda line: None):
    return fit(recipe, root, say=say)


@pytest.fixture
def previewed(tiny_recipe, tmp_path):
    """``previewed(*overrides)`` -> the previews of a tiny model, its trainer module, and a trainer at step 2."""

    def build(*overrides: str, mixture: Mixture | None = None, step: int = 2, first: bool = True):
        from pam_kit.model import RegionVLM

        recipe = tiny_recipe(*CPU, *SHORT, "train.preview_every=2", *overrides)
        torch.manual_seed(0)
        model = RegionVLM.from_recipe(recipe)
        model.decoder.learn_vocabulary(["cup", "A cup."])
        said: list[str] = []
        previews = Previews(recipe, mixture or mixed(Pictures()), tmp_path, said.append)
        trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        fake = SimpleNamespace(
            global_step=step,
            is_global_zero=first,
            strategy=trainer.strategy,
            precision_plugin=trainer.precision_plugin,
            loggers=[],
        )
        return previews, RegionTrainer(recipe, model, 4), fake, said

    return build


def show(previews, module, trainer):
    previews.on_train_batch_end(trainer, module, None, None, 0)


def written(folder) -> dict[str, list[str]]:
    return {step.name: sorted(path.name for path in step.iterdir()) for step in sorted(folder.glob("previews/*"))}


def test_weights_are_the_same_to_the_last_bit_with_and_without_previews(tiny_recipe, tmp_path):
    """All parts learn, so batch statistics move and would not, were the model left in evaluation mode."""
    options = (*CPU, *STEPS, *SHORT, EVERYTHING, "train.max_steps=2")
    without = run(tiny_recipe(*options), tmp_path / "without")
    with_them = run(tiny_recipe(*options, "train.preview_every=1"), tmp_path / "with")
    ends = [torch.load(next(folder.glob("checkpoints/*.ckpt")), weights_only=True) for folder in (without, with_them)]
    expected, found = (end["state_dict"] for end in ends)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not (without / "previews").exists()
    assert len(written(with_them)) == 2


def test_pictures_and_texts_of_the_same_regions_at_every_preview(tiny_recipe, tmp_path):
    options = ("data.tasks={recognize: 1, caption: 1}", "evaluate.max_new_tokens=3", "train.preview_every=2")
    folder = run(tiny_recipe(*CPU, *STEPS, *options), tmp_path / "runs")
    pictures = [f"{number}.png" for number in (1, 2)]
    assert written(folder) == {name: [*pictures, "texts.jsonl"] for name in ("step-000002", "step-000004")}
    lines = {
        step: [json.loads(line) for line in (folder / "previews" / step / "texts.jsonl").read_text().splitlines()]
        for step in written(folder)
    }
    asked = {
        step: [[line[key] for key in ("source", "region", "task", "language", "asked", "expected")] for line in own]
        for step, own in lines.items()
    }
    assert asked["step-000002"] == asked["step-000004"]
    for line in lines["step-000004"]:
        assert line["asked"] == question(line["task"], line["language"])
        assert line["expected"] and isinstance(line["said"], str) and 0 <= line["score"] <= 1
    found = EventAccumulator(str(folder / "logs"), size_guidance={"images": 0}).Reload()
    for number, name in enumerate(pictures, start=1):
        shown = found.Images(f"previews/{number}")
        assert [event.step for event in shown] == [2, 4]
        with Image.open(folder / "previews" / "step-000004" / name) as picture:
            assert (shown[1].width, shown[1].height) == picture.size


def test_random_states_modes_and_gradients_are_put_back(previewed, monkeypatch):
    def restless(self, *args):
        random.random(), np.random.rand(), torch.rand(1)
        return original(self, *args)

    original = RegionPredictor.predict
    monkeypatch.setattr(RegionPredictor, "predict", restless)
    previews, module, trainer, said = previewed(EVERYTHING)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    modes = {name: part.training for name, part in module.named_modules()}
    modes["model.perceiver"] = module.model.perceiver.training = False
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    show(previews, module, trainer)
    assert not said and written(previews.folder)
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1]) and torch.equal(torch.get_rng_state(), states[2])
    assert {name: part.training for name, part in module.named_modules()} == modes
    assert all(torch.equal(parameter.grad, torch.ones_like(parameter)) for parameter in module.parameters())
    assert all(torch.equal(value, buffers[name]) for name, value in module.named_buffers())


def test_a_failure_is_said_once_and_ends_no_run(tiny_recipe, tmp_path, monkeypatch):
    def fail(*_):
        random.random()
        raise RuntimeError("out of paper")

    monkeypatch.setattr(RegionPredictor, "predict", fail)
    said: list[str] = []
    folder = run(tiny_recipe(*CPU, *STEPS, *SHORT, "train.preview_every=1"), tmp_path / "runs", said.append)
    failures = [line for line in said if "out of paper" in line]
    assert failures == ["no preview at step 1: RuntimeError: out of paper. The run goes on; this is not said again"]
    assert (folder / "model").is_dir() and not (folder / "previews").exists()


def test_random_states_and_modes_are_put_back_after_a_failure(previewed, monkeypatch):
    def fail(*_):
        torch.rand(1)
        raise RuntimeError("out of paper")

    monkeypatch.setattr(RegionPredictor, "predict", fail)
    previews, module, trainer, said = previewed(EVERYTHING)
    modes, state = [part.training for part in module.modules()], torch.get_rng_state()
    show(previews, module, trainer)
    assert said and torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in module.modules()] == modes and any(modes)


def test_an_interruption_is_no_failure(previewed, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(RegionPredictor, "predict", interrupt)
    previews, module, trainer, _ = previewed()
    with pytest.raises(KeyboardInterrupt):
        show(previews, module, trainer)


@pytest.mark.parametrize(("step", "first"), [(3, True), (2, False)])
def test_only_when_it_is_time_and_only_the_first_process(previewed, step, first):
    previews, module, trainer, said = previewed(step=step, first=first)
    show(previews, module, trainer)
    assert not written(previews.folder) and not said


def test_micro_batches_after_a_step_and_a_resumed_run_show_nothing_again(previewed):
    previews, module, trainer, _ = previewed()
    previews.on_train_start(trainer, module)
    show(previews, module, trainer)
    assert not written(previews.folder)
    trainer.global_step = 4
    show(previews, module, trainer)
    picture = previews.folder / "previews" / "step-000004" / "1.png"
    picture.unlink()
    show(previews, module, trainer)
    assert not picture.exists()


@pytest.mark.parametrize(
    ("strategy", "able"),
    [(SingleDeviceStrategy, True), (DDPStrategy, True), (FSDPStrategy, False), (FullyShardedStrategy, False)],
)
def test_no_process_answers_alone_where_it_would_wait_for_the_others(previewed, strategy, able):
    previews, module, trainer, said = previewed()
    trainer.strategy = strategy()
    show(previews, module, trainer)
    assert bool(written(previews.folder)) == able
    reason = f"no process has the whole model under {strategy.__name__}"
    assert said == ([] if able else [f"no preview at step 2: {reason}. The run goes on; this is not said again"])


@pytest.mark.parametrize(("stage", "able"), [(2, True), (3, False)])
def test_deepspeed_keeps_the_model_whole_up_to_stage_2(previewed, stage, able):
    previews, module, trainer, said = previewed()
    trainer.strategy = object.__new__(DeepSpeedStrategy)
    trainer.strategy.config = {"zero_optimization": {"stage": stage}}
    show(previews, module, trainer)
    assert bool(written(previews.folder)) == able and bool(said) != able


def test_the_seed_chooses_different_pictures(tiny_recipe):
    section = tiny_recipe("data.tasks={recognize: 1, caption: 1}").data
    chosen = [sources(shown_regions(mixed(Pictures(length=1000)), section, seed)) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert all(len(set(own)) == 4 for own in chosen)


def test_broken_pictures_and_clips_are_passed_over(tiny_recipe):
    section = tiny_recipe("data.tasks={recognize: 1}").data
    mixture = mixed(Clips(length=50), Pictures(length=6, broken=(0, 2, 4)))
    assert set(sources(shown_regions(mixture, section, 0))) == {"pictures:1", "pictures:3", "pictures:5"}
    with pytest.raises(PamKitError, match="no training picture"):
        shown_regions(mixed(Clips()), section, 0)


def test_only_texts_that_the_recipe_asks_for(tiny_recipe):
    section = tiny_recipe("data.tasks={recognize: 1, caption: 0}", "data.languages={en: 1, zh: 0}").data
    assert shown_regions(mixed(Pictures()), section, 0)[0].texts == {"recognize": {"en": "cup"}}
    with pytest.raises(PamKitError, match="data.tasks and data.languages"):
        shown_regions(mixed(Pictures(texts={"caption": {"en": "A cup."}})), section, 0)


def test_regions_are_pointed_at_in_the_commonest_way_of_the_recipe(tiny_recipe):
    by_point = tiny_recipe("data.prompts={box: 0.4, point: 0.6}").data
    assert all(len(shown.prompt.points) == 1 for shown in shown_regions(mixed(Pictures()), by_point, 0))
    own = RegionPrompt(box=(1, 2, 30, 31))
    given = shown_regions(mixed(Pictures(mask=False, prompt=own)), by_point, 0)
    assert all(shown.prompt == own for shown in given)


def test_previews_need_a_number_of_steps(tiny_recipe, tmp_path):
    with pytest.raises(PamKitError, match="train.preview_every"):
        Previews(tiny_recipe(), mixed(Pictures()), tmp_path)


def test_a_tile_a_task(previewed):
    previews, module, trainer, _ = previewed()
    section = previews.recipe.data
    section.tasks, section.languages = {"recognize": 1, "caption": 1}, {"en": 1, "zh": 1}
    show(previews, module, trainer)
    shown, predictor = previews._shown[0], RegionPredictor(module.model)
    prediction = predictor.predict(shown.sample.image, [shown.prompt], list(shown.texts), shown.languages, 2)[0]
    both = draw_preview(shown, prediction)
    one = draw_preview(Shown(shown.sample, shown.region, shown.prompt, {"caption": {"en": "A cup."}}), prediction)
    assert both.width > 1.9 * one.width
