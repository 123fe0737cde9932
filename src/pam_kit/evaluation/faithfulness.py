"""Does a text come from the region it is about? How much less likely it gets when the region is out of the picture.

The prompt stays where it is and the text is the same; only pixels change. In nats per token of the text:

- ``drop_region``: without the region. Small where the text would be said of the picture anyway.
- ``drop_surroundings``: without all but the region. Large where the text needs the context, or is about it.
- ``drop_other``: without the largest other region of the picture, as a contrast. A model that describes the salient
  object in the place of the one that was asked for loses more here than by ``drop_region``.

Occlusion as a test of what an output rests on: Zeiler and Fergus, "Visualizing and Understanding Convolutional
Networks", ECCV 2014, section 4.2; here the measure is a likelihood, so that whole texts can be tested.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pam_kit.contracts import Questions, RegionFeatures, RegionPrompt
from pam_kit.errors import PamKitError
from pam_kit.evaluation.altered_pictures import Fill, Shape, altered, shaped, without_others
from pam_kit.inference.predictor import RegionPredictor
from pam_kit.inference.region_masks import full_size
from pam_kit.inference.region_reading import read_regions

SOURCES = ("reference", "answer")
VARIANTS = ("region", "surroundings", "other")


@dataclass(frozen=True)
class ProbeSettings:
    """How pictures are altered and which texts are tested.

    Args:
        fill: what stands in the place of what was taken out.
        shape: whether a region is taken out by its box or by its mask, of which the outline stays to be seen.
        sources: ``reference``, the true texts, and ``answer``, what the model itself says of the whole picture.
        max_new_tokens: of an answer.
        batch_size: pictures that are encoded at once.
    """

    fill: Fill = "mean"
    shape: Shape = "box"
    sources: tuple[str, ...] = SOURCES
    max_new_tokens: int = 48
    batch_size: int = 16

    def __post_init__(self):
        if not self.sources or (unknown := [name for name in self.sources if name not in SOURCES]):
            raise PamKitError(f"texts are of {', '.join(SOURCES)}; not {unknown[0]!r}" if self.sources else "no texts")


@dataclass(frozen=True)
class ProbedQuestion:
    """What is asked about a region, and what is true of it, where that is known.

    ``references`` are all tested. ``answer`` is what the model said of the whole picture; None asks it.
    """

    task: str
    language: str
    question: str
    references: tuple[str, ...] = ()
    answer: str | None = None


@dataclass(frozen=True)
class ProbedRegion:
    """A region of a picture: how it is pointed at, where it is, what is asked.

    ``mask`` (H, W) bool; None where it is not known: then it is the prompt's own mask or box, else the predicted mask.
    """

    id: str
    prompt: RegionPrompt
    questions: tuple[ProbedQuestion, ...]
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class ProbedPicture:
    """An (H, W, 3) uint8 picture and its regions; those without questions are there to be taken out beside others."""

    source: str
    image: np.ndarray
    regions: tuple[ProbedRegion, ...]


@dataclass
class TextFall:
    """One text about one region: its log-likelihood in the whole picture and in the altered ones, in nats."""

    region: str
    task: str
    language: str
    source: str
    question: str
    text: str
    tokens: int = 0
    original: float = 0.0
    altered: dict[str, float] = field(default_factory=dict)

    def drop(self, variant: str) -> float | None:
        """Nats per token that the text loses; None where the picture has no such variant."""
        return (self.original - self.altered[variant]) / self.tokens if variant in self.altered else None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return vars(self) | {"altered": dict(self.altered)}


@dataclass(frozen=True)
class Variant:
    """An altered picture: one of ``VARIANTS``, the place of the region that is asked about, (H, W, 3) uint8."""

    name: str
    region: int
    image: np.ndarray


@torch.inference_mode()
def probe_picture(
    predictor: RegionPredictor, picture: ProbedPicture, settings: ProbeSettings
) -> tuple[list[TextFall], list[np.ndarray]]:
    """How far each text about each region of a picture falls. Every altered picture is encoded once for all texts.

    -> the falls, and the area (H, W) bool of each region. A text that has no words is left out. Of a region that is
    nowhere, since its predicted mask is empty, nothing can be taken out: its texts have no ``altered``.
    """
    prompts = [region.prompt for region in picture.regions]
    if not any(region.questions for region in picture.regions):
        return [], []
    features, prefix = read_regions(predictor, [picture.image], [prompts])
    areas = areas_of(picture, features, settings.shape)
    texts = _texts(predictor, picture, prefix, settings)
    for (_, fall), (value, tokens) in zip(texts, _likelihoods(predictor, prefix, texts), strict=True):
        fall.original, fall.tokens = value, tokens
    variants = list(variants_of(picture, areas, settings.fill))
    for start in range(0, len(variants), settings.batch_size):
        batch = variants[start : start + settings.batch_size]
        _, prefix = read_regions(predictor, [one.image for one in batch], [[prompts[one.region]] for one in batch])
        asked = [(row, fall) for row, one in enumerate(batch) for region, fall in texts if region == one.region]
        for (row, fall), (value, _) in zip(asked, _likelihoods(predictor, prefix, asked), strict=True):
            fall.altered[batch[row].name] = value
    return [fall for _, fall in texts], areas


def areas_of(picture: ProbedPicture, features: RegionFeatures, shape: Shape) -> list[np.ndarray]:
    """Where each region is, (H, W) bool: by its mask, else its prompt's mask or box, else the predicted mask."""
    return [shaped(_known(region, picture, features, row), shape) for row, region in enumerate(picture.regions)]


def variants_of(picture: ProbedPicture, areas: list[np.ndarray], fill: Fill) -> Iterator[Variant]:
    """The altered pictures of every region that something is asked about."""
    for index, region in enumerate(picture.regions):
        if not region.questions or not areas[index].any():
            continue
        yield Variant("region", index, altered(picture.image, areas[index], fill))
        yield Variant("surroundings", index, altered(picture.image, ~areas[index], fill))
        other = without_others(areas, index)
        if other is not None:
            yield Variant("other", index, altered(picture.image, other, fill))


def _known(region: ProbedRegion, picture: ProbedPicture, features: RegionFeatures, row: int) -> np.ndarray:
    height, width = picture.image.shape[:2]
    mask = region.prompt.mask if region.mask is None else region.mask
    if mask is not None:
        return mask
    if region.prompt.box is not None:
        x1, y1, x2, y2 = region.prompt.box
        mask = np.zeros((height, width), dtype=bool)
        mask[int(y1) : max(int(y1) + 1, math.ceil(y2)), int(x1) : max(int(x1) + 1, math.ceil(x2))] = True
        return mask
    return full_size(features.mask_logits[row, 0], (height, width))


def _texts(predictor, picture: ProbedPicture, prefix: Tensor, settings: ProbeSettings) -> list[tuple[int, TextFall]]:
    """The texts that are tested, each with the place of its region."""
    asked = [(row, one) for row, region in enumerate(picture.regions) for one in region.questions]
    said = [one.answer for _, one in asked]
    if "answer" in settings.sources and (unsaid := [place for place, text in enumerate(said) if text is None]):
        rows = [(asked[place][0], asked[place][1]) for place in unsaid]
        questions = _questions([(row, one.question, "", one.task, one.language) for row, one in rows])
        answers = predictor.model.decoder.generate(prefix, questions, settings.max_new_tokens)
        for place, answer in zip(unsaid, answers, strict=True):
            said[place] = answer.text
    found = []
    for (row, one), answer in zip(asked, said, strict=True):
        region = picture.regions[row].id
        references = [("reference", text) for text in dict.fromkeys(one.references)]
        for source, text in (*references, ("answer", answer)):
            if source in settings.sources and text and text.strip():
                found.append((row, TextFall(region, one.task, one.language, source, one.question, text)))
    return found


def _likelihoods(predictor, prefix: Tensor, asked: Sequence[tuple[int, TextFall]]) -> list[tuple[float, int]]:
    """The log-likelihood of each text behind the row of ``prefix`` that stands beside it, and its tokens."""
    questions = _questions([(row, one.question, one.text, one.task, one.language) for row, one in asked])
    sums, tokens = predictor.model.decoder.log_likelihoods(prefix, questions)
    return list(zip(sums.double().tolist(), tokens.tolist(), strict=True))


def _questions(rows: Sequence[tuple[int, str, str, str, str]]) -> Questions:
    return Questions(
        region_index=torch.tensor([row[0] for row in rows], dtype=torch.long),
        questions=[row[1] for row in rows],
        answers=[row[2] for row in rows],
        tasks=[row[3] for row in rows],
        languages=[row[4] for row in rows],
    )
