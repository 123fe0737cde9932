"""Questions about regions answered plainly, which the kit's own way is measured against: nothing is shared or batched.

It is what the released code does: every region is a sample of its own that brings its picture or clip along, every
question is read together with its region, and while it is read the logits of every position are made.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from pam_kit.bench.stage_times import StageTimes
from pam_kit.components.decoders.causal_lm import CausalLM
from pam_kit.components.decoders.chat import ChatFormat
from pam_kit.components.decoders.conversation import REGION_ID
from pam_kit.contracts import RegionFeatures, RegionPrompt
from pam_kit.data.prepare import Geometry, collate, model_image, prepare
from pam_kit.errors import PamKitError
from pam_kit.inference.presence import in_sight
from pam_kit.inference.region_masks import full_size
from pam_kit.inference.session_settings import Work as Counts
from pam_kit.inference.stream_clip import Asking
from pam_kit.model import RegionVLM
from pam_kit.tasks import question

# How near the second likeliest word's logit may come to the first's, relative to that one, before rounding decides.
TIES, LOW_PRECISION_TIE = {torch.float32: 2e-4}, 2e-2
# Tasks and languages.
Asked = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class Fork:
    """Where an answer's two likeliest words were nearer than ``TIES``, so that rounding decides, which other kernels or
    another order of sums do otherwise: what is said where it decides for the second.

    Args:
        said: the words ahead, and that one.
        whole: nothing follows; otherwise what does is not known.
    """

    said: str
    whole: bool


@dataclass
class PlainRegion:
    """One region: its mask logits (4h, 4w), expected IoU and object score in each frame, and the answers about it.

    ``forks`` holds of each answer what else may be said, see Fork; ``exact``: the answers were made in float32, in
    which ties are rare.
    """

    size: tuple[int, int]
    logits: list[Tensor] = field(default_factory=list)
    scores: list[tuple[float, float]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    forks: list[list[Fork]] = field(default_factory=list)
    exact: bool = True

    @property
    def in_sight(self) -> bool:
        """Whether it is in any frame."""
        seen = zip(self.logits, self.scores, strict=True)
        return any(in_sight(score, int(full_size(logits, self.size).sum())) for logits, (_, score) in seen)

    def see(self, regions: RegionFeatures) -> None:
        # A row of a tensor would keep the whole tensor.
        self.logits.append(regions.mask_logits[0, 0].float().cpu().clone())
        self.scores.append((float(regions.iou[0]), float(regions.object_score[0].sigmoid())))


class PlainPath:
    """Answers one question about one region at a time, greedily.

    Attributes:
        counts: what was computed so far.

    Args:
        model: a RegionVLM in eval mode.
        times: where the seconds of the language model go.

    Raises:
        PamKitError: the model's decoder is none of Hugging Face's.
    """

    def __init__(self, model: RegionVLM, times: StageTimes):
        if not isinstance(model.decoder, CausalLM):
            raise PamKitError(
                f"the plain path is written for the decoder causal_lm, not {type(model.decoder).__name__}; measure "
                "without --against plain"
            )
        if model.decoder.needs_vocabulary():
            raise PamKitError("the decoder has no tokenizer yet: train it, or load a run that has one")
        self.model, self.counts, self._times = model, Counts(), times
        self._lm = model.decoder.lm
        accepted = inspect.signature(self._lm.forward).parameters
        self._cache_name = "cache" if "cache" in accepted else "past_key_values"
        self._exact = next(self._lm.parameters()).dtype in TIES
        self._tie = TIES.get(next(self._lm.parameters()).dtype, LOW_PRECISION_TIE)
        self._form = ChatFormat(model.decoder.tokenizer, model.decoder.template)
        self._geometry, self._device = Geometry.of(model.backbone), next(model.parameters()).device

    @torch.inference_mode()
    def picture(self, image: np.ndarray, prompt: RegionPrompt, asked: Asked, max_new_tokens: int) -> PlainRegion:
        """One region of a picture (H, W, 3) uint8; the questions are asked task by task."""
        region = PlainRegion((image.shape[0], image.shape[1]), exact=self._exact)
        batch = collate([prepare(image, [prompt], [], self._geometry)], self._geometry).to(self._device)
        features = self.model.segment(batch.images, batch.image_index, batch.prompts)
        self._count_sight()
        region.see(features.as_described())
        prefix = self.model.prefix(self.model.perceive(features))
        words = [question(task, language) for task in asked[0] for language in asked[1]]
        return self._answered(region, prefix, words, max_new_tokens)

    @torch.inference_mode()
    def clip(
        self, frames: Sequence[np.ndarray], prompt: RegionPrompt, asked: Asked, max_new_tokens: int
    ) -> PlainRegion:
        """One region of a clip, pointed at in its first frame; every frame is read.

        As the kit, it says nothing of what is in sight in no frame.
        """
        region = PlainRegion((frames[0].shape[0], frames[0].shape[1]), exact=self._exact)
        batch = collate([prepare(frames[0], [prompt], [], self._geometry)], self._geometry).to(self._device)
        images = [model_image(frame, self._geometry.image_size).to(self._device) for frame in frames]
        tokens = []
        for index, features in enumerate(self.model.backbone.track(images, batch.prompts)):
            self._count_sight()
            region.see(features)
            seen = self.model.with_crops(features, images[index][None])
            tokens.append(self.model.perceive(seen, later=index > 0))
        if not region.in_sight:
            return region
        prefix = self.model.prefix(tokens)
        words = Asking(*asked, max_new_tokens).questions({}).questions
        return self._answered(region, prefix, words, max_new_tokens)

    def _answered(self, region: PlainRegion, prefix: Tensor, words: Sequence[str], max_new_tokens: int) -> PlainRegion:
        for one in words:
            text, forks = self._answer(prefix, one, max_new_tokens)
            region.texts.append(text)
            region.forks.append(forks)
        return region

    def _count_sight(self) -> None:
        self.counts.pictures += 1
        self.counts.regions += 1
        self.counts.views += 1

    def _answer(self, prefix: Tensor, words: str, max_new_tokens: int) -> tuple[str, list[Fork]]:
        """The answer to one question behind the embeddings (1, L, D) of its region, and what else it may be."""
        ids = self._form.prompt(words).to(self._device)
        place = int((ids == REGION_ID).nonzero()[0])
        table = self._lm.get_input_embeddings()
        with self._times.stage("prefill"):
            parts = [table(ids[:place])[None], prefix.to(table.weight), table(ids[place + 1 :])[None]]
            # Nothing tells the model whose logits are wanted.
            held = {self._cache_name: DynamicCache(config=self._lm.config)}
            output = self._lm(inputs_embeds=torch.cat(parts, dim=1), use_cache=True, **held)
        length = output.logits.shape[1]
        self.counts.prefix_positions += place + prefix.shape[1]
        self.counts.positions += length
        self.counts.vocabulary_rows += length
        said: list[int] = []
        others: dict[int, int] = {}  # place -> the second word, where it is as likely as the first
        with self._times.stage("decode"):
            while True:
                values, words_said = output.logits[0, -1].float().topk(2)
                best, (first, second) = words_said[:1], values.tolist()
                if first - second <= self._tie * abs(first):
                    others[len(said)] = int(words_said[1])
                said.append(int(best))
                self._times.tokens += 1
                if said[-1] == self._form.end or len(said) == max_new_tokens:
                    break
                output = self._lm(input_ids=best[None], use_cache=True, **held)
                self.counts.positions += 1
                self.counts.vocabulary_rows += 1
        forks = [self._fork(said[:place], other, max_new_tokens) for place, other in others.items()]
        return self._text(said), [fork for fork in forks if fork is not None]

    def _fork(self, ahead: list[int], other: int, max_new_tokens: int) -> Fork | None:
        """None where the other word is shown as nothing, so that a text does not tell whether it was said."""
        said, whole = self._text([*ahead, other]), other == self._form.end or len(ahead) + 1 == max_new_tokens
        return Fork(said, whole) if whole or said != self._text(ahead) else None

    def _text(self, said: list[int]) -> str:
        return self._form.answer(torch.tensor(said, dtype=torch.long), torch.zeros(len(said))).text
