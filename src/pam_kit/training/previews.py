"""What the model says about a few training regions while it learns: pictures and texts in ``<run>/previews``."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image
from torch import nn

from pam_kit.contracts import Region, RegionPrompt, RegionSample
from pam_kit.data.mixture import Mixture
from pam_kit.data.prompting import exact_prompt
from pam_kit.data.schema import has_clips
from pam_kit.errors import BrokenSample, PamKitError, PromptError
from pam_kit.inference.overlay import TILE_SIDE, TILE_TEXT, draw_contact_sheet, draw_task_example
from pam_kit.inference.panel import Entry, draw_panel
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.result import RegionPrediction
from pam_kit.sections import DataSection, Recipe
from pam_kit.tasks import question
from pam_kit.training.loggers import log_pictures

PICTURES = 4
# Samples that are tried for each picture of the previews.
_TRIES = 8
_COLUMNS = 2


@dataclass(frozen=True)
class Shown:
    """A region that the previews follow.

    Args:
        sample: its picture.
        region: one with texts.
        prompt: how it is pointed at.
        texts: task -> language -> what is expected, of the recipe's tasks and languages.
    """

    sample: RegionSample
    region: Region
    prompt: RegionPrompt
    texts: dict[str, dict[str, str]]

    @property
    def languages(self) -> list[str]:
        return list(dict.fromkeys(language for by_language in self.texts.values() for language in by_language))


class Previews(Callback):
    """Every ``train.preview_every`` optimiser steps the model answers questions about regions of up to four training
    pictures, always the same ones, drawn by the recipe's seed.

    ``previews/step-000400`` then holds ``1.png`` and so on, a tile for every task of the picture's region (what was
    asked, the predicted mask and the dashed true one, the predicted and the expected text), and ``texts.jsonl``, a line
    for every answer. TensorBoard and W&B show the pictures as well. Clips are left out.

    Training does not notice: random states and modes are put back and no gradient is touched. Only the first process
    answers; the others wait for it in their next step. So there are no previews under strategies that shard parameters,
    where no process can use the model alone. That, or a preview that fails, is said once and does not end the run.

    Args:
        recipe: the whole run; ``train.preview_every`` must be set.
        mixture: the training sets.
        folder: the run folder.
        say: takes what is to be reported.
    """

    def __init__(self, recipe: Recipe, mixture: Mixture, folder: Path, say: Callable[[str], None] = print):
        if recipe.train.preview_every is None:
            raise PamKitError("previews need train.preview_every, the number of steps between them")
        self.recipe, self.mixture, self.folder, self.say = recipe, mixture, folder, say
        self.every = recipe.train.preview_every
        self._shown: list[Shown] = []
        self._last_step, self._reported = 0, False

    def on_train_start(self, trainer, module) -> None:
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        step = trainer.global_step
        # Of the micro-batches of a step, the last one moves the count.
        if step == self._last_step or step % self.every:
            return
        self._last_step = step
        if not _lets_one_process_answer(trainer.strategy):
            self._report(f"no process has the whole model under {type(trainer.strategy).__name__}")
        elif trainer.is_global_zero:
            self._try(trainer, module, step)

    def _try(self, trainer, module, step: int) -> None:
        with isolate_rng(), _unchanged_modes(module):
            # Whatever goes wrong here, hours of training must not be lost over a picture.
            try:
                self._preview(trainer, module, step)
            except Exception as error:
                self._report(f"{type(error).__name__}: {error}")

    def _preview(self, trainer, module, step: int) -> None:
        self._shown = self._shown or shown_regions(self.mixture, self.recipe.data, self.recipe.seed)
        with trainer.precision_plugin.forward_context(), torch.compiler.set_stance("force_eager"):
            predictions = self._predictions(module)
        pictures = [draw_preview(*pair) for pair in zip(self._shown, predictions, strict=True)]
        self._write(self.folder / "previews" / f"step-{step:06d}", pictures, predictions)
        log_pictures(trainer.loggers, "previews", pictures, step)

    def _predictions(self, module) -> list[RegionPrediction]:
        predictor = RegionPredictor(module.model, module.device)
        limit = self.recipe.evaluate.max_new_tokens
        return [
            predictor.predict(shown.sample.image, [shown.prompt], list(shown.texts), shown.languages, limit)[0]
            for shown in self._shown
        ]

    def _write(self, folder: Path, pictures: Sequence[Image.Image], predictions: Sequence[RegionPrediction]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures, start=1):
            picture.save(folder / f"{number}.png")
        lines = [
            json.dumps(line, ensure_ascii=False)
            for shown, prediction in zip(self._shown, predictions, strict=True)
            for line in _answers(shown, prediction)
        ]
        (folder / "texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    @rank_zero_only
    def _report(self, reason: str) -> None:
        if not self._reported:
            self.say(f"no preview at step {self._last_step}: {reason}. The run goes on; this is not said again")
        self._reported = True


def shown_regions(mixture: Mixture, section: DataSection, seed: int, count: int = PICTURES) -> list[Shown]:
    """Regions with texts of the recipe's tasks and languages, one each of up to ``count`` pictures drawn by ``seed``.

    Raises PamKitError where none of the pictures that were tried has such a region, or all sets are of clips.
    """
    rng = np.random.default_rng([seed, 5])
    sets = [dataset for dataset in mixture.sets if not has_clips(dataset)]
    found: list[Shown] = []
    tried: set[tuple[int, int]] = set()
    for _ in range(count * _TRIES if sets else 0):
        number = int(rng.integers(len(sets)))
        index = int(rng.integers(len(sets[number])))
        if (number, index) in tried or len(found) == count:
            continue
        tried.add((number, index))
        try:
            found += _shown(sets[number][index], section, rng)
        except (BrokenSample, PromptError):
            # The run counts and lists broken samples when it comes to them.
            continue
    if not found:
        raise PamKitError("no training picture was found that has a text of data.tasks and data.languages")
    return found


def draw_preview(shown: Shown, prediction: RegionPrediction) -> Image.Image:
    """A tile for every task that was asked, in rows of two."""
    tiles = []
    for task, expected in shown.texts.items():
        asked = tuple(("asked", question(task, language)) for language in expected)
        tile = draw_task_example(shown.sample.image, shown.region.mask, prediction, task, expected)
        tiles.append(draw_contact_sheet([draw_panel([Entry(None, "", asked)], TILE_SIDE, TILE_TEXT), tile], columns=1))
    return draw_contact_sheet(tiles, _COLUMNS)


def _shown(sample, section: DataSection, rng: np.random.Generator) -> list[Shown]:
    """A region of the sample, or none where no region has a text that the recipe asks for."""
    for i in rng.permutation(len(sample.regions)):
        region = sample.regions[i]
        texts = _expected(region, section)
        if texts:
            kind = "given" if region.mask is None else max(section.prompts, key=section.prompts.__getitem__)
            height, width = sample.image.shape[:2]
            prompt = exact_prompt(region, kind, width, height)
            prompt.check(width, height)
            return [Shown(sample, region, prompt, texts)]
    return []


def _expected(region: Region, section: DataSection) -> dict[str, dict[str, str]]:
    asked = {
        task: {language: text for language, text in by_language.items() if section.languages.get(language, 0) > 0}
        for task, by_language in region.texts.items()
        if section.tasks.get(task, 0) > 0
    }
    return {task: by_language for task, by_language in asked.items() if by_language}


def _answers(shown: Shown, prediction: RegionPrediction) -> Iterator[dict]:
    for task, by_language in shown.texts.items():
        for language, expected in by_language.items():
            answer = prediction.texts[task][language]
            yield {
                "source": shown.sample.source,
                "region": shown.region.id,
                "task": task,
                "language": language,
                "asked": question(task, language),
                "expected": expected,
                "said": answer.text,
                "score": float(answer.score),
            }


def _lets_one_process_answer(strategy: Strategy) -> bool:
    """Whether a process can use the model while the others do not; elsewhere it would wait for them for ever."""
    if isinstance(strategy, DeepSpeedStrategy):
        return not strategy.zero_stage_3
    return not isinstance(strategy, FSDPStrategy | ModelParallelStrategy)


@contextmanager
def _unchanged_modes(module: nn.Module) -> Iterator[None]:
    """Every submodule is in training or evaluation mode afterwards as it was before."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
