"""The model whose speed is measured, and what it is shown."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from pam_kit.bench.measured_step import random_model
from pam_kit.bench.step_benchmark import StepSizes
from pam_kit.bench.works import ModelChoice, Work
from pam_kit.checkpoints import load_model
from pam_kit.contracts import Decoder, RegionPrompt
from pam_kit.errors import PamKitError
from pam_kit.model import RegionVLM
from pam_kit.recipe import load_recipe
from pam_kit.tasks import CLIP_CAPTION, QUESTIONS

# Of the pictures: (H, W).
SIZE = (480, 640)
# How widely the weights of a random model are spread, times the root of their width: those of its words, which is the
# spread of its logits, and the others. What a model says that starts to learn hardly depends on what it reads, so that
# any mistake would give the same answer.
_WORDS, _OTHERS = 4.0, 1.8
# Logit by which objects are in sight.
_SEEN = 5.0
_TEXTS = [tuple(by_language.values()) for by_language in QUESTIONS.values()] + [tuple(CLIP_CAPTION["en"])]


def chosen_model(choice: ModelChoice) -> RegionVLM:
    """The model in eval mode; the same weights in every process."""
    if choice.checkpoint is not None:
        return load_model(choice.checkpoint)[0]
    torch.manual_seed(0)
    if choice.recipe is not None:
        model = RegionVLM.from_recipe(load_recipe(choice.recipe, choice.overrides), pretrained=())
    else:
        model = random_model(StepSizes(**(choice.sizes or {})), _TEXTS, template="chatml")
    if model.decoder.needs_vocabulary():
        model.decoder.learn_vocabulary(text for group in _TEXTS for text in group)
    _name_every_word(model.decoder)
    _spread(model)
    _show(model)
    return model.eval()


def pictures(work: Work) -> list[np.ndarray]:
    """The pictures of a piece of work, or the frames of its clip: (H, W, 3) uint8, blocks of colours under noise."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(work.frames or work.images):
        blocks = rng.integers(0, 196, (SIZE[0] // 40, SIZE[1] // 40, 3)).repeat(40, 0).repeat(40, 1)
        found.append((blocks + rng.integers(0, 60, (*SIZE, 3))).astype(np.uint8))
    return found


def prompts(work: Work) -> list[RegionPrompt]:
    """The regions of each picture, or of the clip: boxes of different sizes at different places."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(work.regions):
        width, height = rng.integers(SIZE[1] // 8, SIZE[1] // 2), rng.integers(SIZE[0] // 8, SIZE[0] // 2)
        left, top = rng.integers(0, SIZE[1] - width), rng.integers(0, SIZE[0] - height)
        found.append(RegionPrompt(box=(float(left), float(top), float(left + width), float(top + height))))
    return found


def _name_every_word(decoder: Decoder) -> None:
    """Give every row of a random model's vocabulary a text of its own, so that different answers read differently.

    A tokenizer that is learned from a few questions has a few hundred entries, and what it has no entry for would be
    shown as nothing at all.
    """
    with TemporaryDirectory(prefix="bench-tokenizer-") as folder:
        decoder.save_tokenizer(folder)
        file = Path(folder, "tokenizer.json")
        if not file.is_file():
            raise PamKitError("a random model is measured with a learned tokenizer, which this decoder does not have")
        contents = json.loads(file.read_text(encoding="utf-8"))
        words = contents["model"]["vocab"]
        # The byte-level alphabet writes a space so; none of these is ever reached by merging.
        words |= {f"\u0120<{row}>": row for row in range(len(words), decoder.vocabulary_size)}
        file.write_text(json.dumps(contents), encoding="utf-8")
        decoder.load_tokenizer(folder)


@torch.no_grad()
def _spread(model: RegionVLM) -> None:
    """Spread the weights of a random model so widely that what it says depends on the region and on the question."""
    for part in (model.projector, model.decoder):
        for name, parameter in part.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=(_WORDS if "embed" in name else _OTHERS) * parameter[0].numel() ** -0.5)


@torch.no_grad()
def _show(model: RegionVLM) -> None:
    """Have a random model see the objects of clips, of which it would say nothing otherwise."""
    head = getattr(getattr(model.backbone, "mask_decoder", None), "pred_obj_score_head", None)
    if model.backbone.tracks and head is not None:
        [*head.parameters()][-1].fill_(_SEEN)
