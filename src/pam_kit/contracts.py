"""What crosses between slots: prompts, samples, batches, features, tokens, texts; one abstract class per slot.

Axis legend, used in every shape of the kit:
  B  images of a batch            R  regions, over all images of the batch
  Q  questions, over all regions  S  side of the square model image, in pixels
  h, w  the feature grid (S/16)   C  embedding width of the backbone (256 in SAM 2)
  T  tokens of the mask decoder   N  semantic tokens            D  width of the decoder
  M  mask candidates of a region  P  points of a prompt, padded

Coordinates are (x, y) in pixels, origin at the top-left corner; boxes are (x1, y1, x2, y2).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pam_kit.errors import PromptError

PAD_POINT, NEGATIVE_POINT, POSITIVE_POINT, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = -1, 0, 1, 2, 3


@dataclass(frozen=True)
class RegionPrompt:
    """Where the user pointed, in pixels of the original picture. Box, points and mask may be combined.

    Args:
        box: (x1, y1, x2, y2).
        points: (x, y) each; ``labels`` says for each whether it lies inside (1) or outside (0) the object.
        mask: (H, W) boolean array of the picture's own size.
    """

    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    mask: np.ndarray | None = None

    @classmethod
    def whole_image(cls, width: int, height: int) -> "RegionPrompt":
        """The prompt that points at nothing in particular: a box around the whole picture."""
        return cls(box=(0.0, 0.0, float(width), float(height)))

    def check(self, width: int, height: int) -> None:
        """Raise PromptError unless the prompt points at something inside a ``width`` x ``height`` picture."""
        if self.box is None and not self.points and self.mask is None:
            raise PromptError("the prompt is empty; give a box, a point or a mask")
        if self.box is not None:
            x1, y1, x2, y2 = self.box
            if not all(np.isfinite(self.box)) or not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
                raise PromptError(
                    f"box {tuple(self.box)} does not fit a picture of {width}x{height} pixels; "
                    f"expected x1,y1,x2,y2 with 0 <= x1 < x2 <= {width} and 0 <= y1 < y2 <= {height}"
                )
        if len(self.points) != len(self.labels):
            raise PromptError(f"{len(self.points)} points but {len(self.labels)} labels; every point needs one, 1 or 0")
        for (x, y), label in zip(self.points, self.labels, strict=True):
            if not (0 <= x <= width and 0 <= y <= height):
                raise PromptError(f"point ({x}, {y}) lies outside a picture of {width}x{height} pixels")
            if label not in (NEGATIVE_POINT, POSITIVE_POINT):
                raise PromptError(f"point label {label!r} is neither 1 (inside the object) nor 0 (outside it)")
        if self.points and POSITIVE_POINT not in self.labels and self.box is None and self.mask is None:
            raise PromptError("only negative points: they say where the object is not; add a positive point or a box")
        if self.mask is not None:
            if self.mask.shape != (height, width):
                raise PromptError(
                    f"the mask is {self.mask.shape[1]}x{self.mask.shape[0]} pixels, the picture {width}x{height}; "
                    "they must have the same size"
                )
            if not self.mask.any():
                raise PromptError("the mask is empty: none of its pixels is set")


@dataclass
class Region:
    """One object of a picture and what is known about it.

    Args:
        id: unique within its sample.
        prompt: how the object is pointed at; None lets the prompt be drawn from the mask or its box.
        mask: (H, W) boolean array, or None where only texts are known.
        texts: task -> language -> text, for example ``{"recognize": {"en": "cup", "zh": "杯子"}}``.
        attributes: facts that evaluation reads, for example ``{"colour": "red"}``; never seen by the model.
    """

    id: str
    prompt: RegionPrompt | None = None
    mask: np.ndarray | None = None
    texts: dict[str, dict[str, str]] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass
class RegionSample:
    """A picture and the regions in it, as a dataset gives it.

    Args:
        source: where it comes from, for error messages, for example ``train.jsonl:17``.
        image: (H, W, 3) uint8, RGB.
    """

    source: str
    image: np.ndarray
    regions: list[Region]


@dataclass
class _TensorRecord:
    """A dataclass whose tensors move together."""

    def to(self, device: torch.device | str):
        def move(value):
            if isinstance(value, list | tuple):
                return type(value)(move(item) for item in value)
            return value.to(device) if isinstance(value, Tensor | _TensorRecord) else value

        return type(self)(**{f.name: move(getattr(self, f.name)) for f in fields(self)})


@dataclass
class PromptBatch(_TensorRecord):
    """Prompts of R regions in pixels of the model image.

    ``points`` (R, P, 2) float; ``labels`` (R, P) long with SAM's codes: 1 and 0 for points, 2 and 3 for the corners
    of a box, -1 for padding. ``masks`` (R, 1, 4h, 4w) float in {0, 1}; ``has_mask`` (R,) bool. P may be 0.
    """

    points: Tensor
    labels: Tensor
    masks: Tensor
    has_mask: Tensor

    def __len__(self) -> int:
        return len(self.points)


@dataclass
class Questions(_TensorRecord):
    """Q questions and, in training, their answers. ``region_index`` (Q,) long says which region each is about."""

    region_index: Tensor
    questions: list[str]
    answers: list[str]
    tasks: list[str]
    languages: list[str]

    def __len__(self) -> int:
        return len(self.questions)

    def first_of_each_region(self, count: int) -> "Questions":
        """At most ``count`` questions about each region, in their order."""
        seen: dict[int, int] = {}
        chosen = []
        for i, region in enumerate(self.region_index.tolist()):
            seen[region] = seen.get(region, 0) + 1
            if seen[region] <= count:
                chosen.append(i)
        return self._chosen(chosen)

    def of_tasks(self, tasks: Sequence[str]) -> "Questions":
        """The questions of some tasks."""
        return self._chosen([i for i, task in enumerate(self.tasks) if task in tasks])

    def _chosen(self, rows: list[int]) -> "Questions":
        values = (self.questions, self.answers, self.tasks, self.languages)
        return Questions(self.region_index[rows], *([value[i] for i in rows] for value in values))


@dataclass
class RegionBatch(_TensorRecord):
    """B pictures, R regions in them, Q questions about them.

    ``images`` (B, 3, S, S) uint8; ``image_index`` (R,) long; ``target_masks`` (R, 1, 4h, 4w) float in {0, 1} with
    ``has_target`` (R,) bool.
    """

    images: Tensor
    image_index: Tensor
    prompts: PromptBatch
    questions: Questions
    target_masks: Tensor
    has_target: Tensor

    def __len__(self) -> int:
        return len(self.image_index)


@dataclass
class ImageFeatures(_TensorRecord):
    """What is computed once an image.

    ``embedding`` (B, C, h, w): the stride-16 embedding before the fusing module ("pre S2-FFM").
    ``high_resolution``: skip features for the mask decoder, at strides 4 and 8; private to the backbone.
    """

    embedding: Tensor
    high_resolution: Sequence[Tensor] = ()


@dataclass
class RegionFeatures(_TensorRecord):
    """What the mask decoder yields for R regions.

    ``image_embedding`` (R, C, h, w): image output of the two-way transformer ("after S2-FFM").
    ``source_embedding`` (R, C, h, w): the same image before it ("pre S2-FFM").
    ``mask_tokens`` (R, 2, C): the stable-or-best token and the single-mask token.
    ``all_tokens`` (R, T, C): the object-score token where the decoder has one, the IoU and mask tokens, then prompt
    tokens; padded rows are marked True in ``token_padding`` (R, T).
    ``mask_logits`` (R, 1, 4h, 4w), ``iou`` (R,), ``object_score`` (R,) logits: of the mask ``mask_tokens[:, 0]`` makes.
    ``candidate_logits`` (R, M, 4h, 4w) and ``candidate_iou`` (R, M): every hypothesis, the single-mask one first.
    """

    image_embedding: Tensor
    source_embedding: Tensor
    mask_tokens: Tensor
    all_tokens: Tensor
    token_padding: Tensor
    mask_logits: Tensor
    iou: Tensor
    object_score: Tensor
    candidate_logits: Tensor
    candidate_iou: Tensor


@dataclass
class PerceivedTokens(_TensorRecord):
    """Perceiver output: ``visual`` (R, h*w, C) in row-major order of ``grid`` = (h, w); ``semantic`` (R, N, C)."""

    visual: Tensor
    semantic: Tensor
    grid: tuple[int, int]


@dataclass
class ProjectedTokens(_TensorRecord):
    """Projector output in the decoder's width: ``visual`` (R, h*w/r^2, D) and ``semantic`` (R, N, D)."""

    visual: Tensor
    semantic: Tensor


@dataclass
class TextLoss(_TensorRecord):
    """Decoder output in training: ``loss`` () the mean over supervised tokens; ``per_question`` (Q,) the mean negative
    log-likelihood of each answer; ``num_tokens`` () the number of supervised tokens."""

    loss: Tensor
    per_question: Tensor
    num_tokens: Tensor


@dataclass
class GeneratedText:
    """One answer. ``score`` is the geometric mean of its tokens' probabilities, in [0, 1]."""

    text: str
    score: float


class VisionBackbone(nn.Module, ABC):
    """Images and prompts in, features, masks and tokens out. Encodes an image once for all its regions.

    Attributes:
        image_size: S. The caller resizes pictures to S x S; normalisation is the backbone's own.
        embed_dim: C.
        grid: (h, w).
        frozen: whether the backbone keeps itself in eval mode and out of the graph.
    """

    image_size: int
    embed_dim: int
    grid: tuple[int, int]
    frozen: bool

    @abstractmethod
    def encode(self, images: Tensor) -> ImageFeatures:
        """(B, 3, S, S) uint8 -> ImageFeatures. The expensive half; independent of prompts."""

    @abstractmethod
    def segment(self, features: ImageFeatures, image_index: Tensor, prompts: PromptBatch) -> RegionFeatures:
        """R prompts, prompt i pointing into image ``image_index[i]`` -> RegionFeatures. R = 0 is legal."""


class Perceiver(nn.Module, ABC):
    """Region features in, visual and semantic tokens out. ``num_semantic_tokens`` is N; 0 is legal."""

    num_semantic_tokens: int

    @abstractmethod
    def forward(self, regions: RegionFeatures) -> PerceivedTokens: ...


class Projector(nn.Module, ABC):
    """Tokens of width C in, fewer tokens of the decoder's width D out."""

    @abstractmethod
    def forward(self, tokens: PerceivedTokens) -> ProjectedTokens: ...

    @abstractmethod
    def num_visual_tokens(self, grid: tuple[int, int]) -> int:
        """How many visual tokens a feature grid (h, w) becomes."""


class Decoder(nn.Module, ABC):
    """A language model that reads a region's embeddings in the place of words. Owns its tokenizer and chat format.

    ``embed_dim`` is D.
    """

    embed_dim: int

    @abstractmethod
    def forward(self, prefix: Tensor, questions: Questions) -> TextLoss:
        """``prefix`` (R, L, D): the embeddings of every region. Loss on answers only; questions must have answers."""

    @abstractmethod
    def generate(self, prefix: Tensor, questions: Questions, max_new_tokens: int) -> list[GeneratedText]:
        """Greedy answers to Q questions, batched; the same text as one at a time."""

    @abstractmethod
    def align(self, tokens: Tensor, questions: Questions) -> Tensor:
        """How far the words of the answers are from being readable off ``tokens`` (R, N, D) directly, (): the mean
        negative log-probability of each word under the tokens' average similarity to the word embeddings, every
        distinct word of the batch counting alike."""

    def needs_vocabulary(self) -> bool:
        """Whether ``learn_vocabulary`` must be called before training."""
        return False

    def learn_vocabulary(self, texts: Iterable[str]) -> None:
        """Make a tokenizer from the texts of the training set. Only where ``needs_vocabulary``."""
        raise TypeError(f"{type(self).__name__} comes with its own vocabulary")

    @abstractmethod
    def save_tokenizer(self, folder: str) -> None:
        """Write the tokenizer's files into ``folder``."""

    @abstractmethod
    def load_tokenizer(self, folder: str) -> None:
        """Read what ``save_tokenizer`` wrote."""
