"""What the model says about one region: its mask, how sure it is, and its texts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pam_kit.contracts import GeneratedText, RegionPrompt
from pam_kit.data.masks import MaskError, decode_rle, encode_rle
from pam_kit.errors import PamKitError, PromptError
from pam_kit.geometry import tight_box


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """One reading of a prompt that may mean several things.

    Args:
        name: ``part``, ``whole`` or ``group``: by the areas of the three masks, the smallest first.
        mask: (H, W) boolean array of the picture's own size.
        iou: the IoU that the model expects of the mask.
        texts: task -> language -> answer about what this mask shows: a label at least.
        chosen: whether it is the one that the region's prediction shows and tells of.
    """

    name: str
    mask: np.ndarray
    iou: float
    texts: dict[str, dict[str, GeneratedText]] = field(default_factory=dict)
    chosen: bool = False

    def to_json(self) -> dict[str, Any]:
        """As ``RegionPrediction.to_json``."""
        return {
            "name": self.name,
            "chosen": self.chosen,
            "segmentation": encode_rle(self.mask),
            "area": int(self.mask.sum()),
            "iou": float(self.iou),
            "texts": texts_json(self.texts),
        }


@dataclass(frozen=True, eq=False)
class RegionPrediction:
    """One region of a picture of H x W pixels.

    Args:
        prompt: how it was pointed at.
        mask: (H, W) boolean array of the picture's own size; may be empty.
        iou: the IoU that the model expects of the mask.
        object_score: probability that there is an object at the prompt, in [0, 1].
        texts: task -> language -> answer.
        hypotheses: what else the prompt may mean, where that was asked; the one that this prediction shows is among it.
        notes: what a user should know of how it was computed: that memory was short, for example.
        error: why there is no answer; mask and texts are empty then, or what was there before it.

    Raises:
        PamKitError: the mask is not a boolean (H, W) array.
    """

    prompt: RegionPrompt
    mask: np.ndarray
    iou: float
    object_score: float
    texts: dict[str, dict[str, GeneratedText]] = field(default_factory=dict)
    hypotheses: tuple[Hypothesis, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None

    def __post_init__(self):
        mask = self.mask
        if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype != bool:
            given = f"{mask.shape} {mask.dtype}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise PamKitError(f"a predicted mask must be an (H, W) boolean NumPy array, not {given}; threshold it")

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """The mask's tight box (x1, y1, x2, y2) in pixels, or None where the mask is empty."""
        return tight_box(self.mask)

    def to_json(self) -> dict[str, Any]:
        """Plain values that ``json.dumps`` takes. ``segmentation`` is COCO's compressed run-length encoding with
        ``counts`` as a string, ``area`` is in pixels, ``box`` is (x1, y1, x2, y2), not COCO's (x, y, width, height).
        ``hypotheses``, ``notes`` and ``error`` stand there only where there are any.
        """
        further: dict[str, Any] = {"hypotheses": [one.to_json() for one in self.hypotheses], "notes": [*self.notes]}
        further["error"] = self.error
        return {name: value for name, value in further.items() if value} | {
            "prompt": prompt_json(self.prompt),
            "segmentation": encode_rle(self.mask),
            "area": int(self.mask.sum()),
            "box": None if self.box is None else list(self.box),
            "iou": float(self.iou),
            "object_score": float(self.object_score),
            "texts": texts_json(self.texts),
        }


def prompt_json(prompt: RegionPrompt) -> dict[str, Any]:
    """Only what the prompt has: ``box``; ``points`` with ``labels``; ``mask`` as run-length encoding."""
    parts: dict[str, Any] = {}
    if prompt.box is not None:
        parts["box"] = [float(v) for v in prompt.box]
    if prompt.points:
        parts["points"] = [[float(x), float(y)] for x, y in prompt.points]
        parts["labels"] = [int(label) for label in prompt.labels]
    if prompt.mask is not None:
        parts["mask"] = encode_rle(prompt.mask)
    return parts


def prompt_from_json(facts: Mapping[str, Any]) -> RegionPrompt:
    """The prompt that ``prompt_json`` wrote; PromptError names a part that is none."""
    if unknown := sorted(set(facts) - {"box", "points", "labels", "mask"}):
        raise PromptError(f"a prompt has box, points with labels, and mask; not {unknown[0]!r}")
    try:
        box = facts.get("box")
        points = tuple((float(x), float(y)) for x, y in facts.get("points", ()))
        labels = tuple(int(label) for label in facts.get("labels", [1] * len(points)))
        mask = None if facts.get("mask") is None else decode_rle(facts["mask"])
        corners = None if box is None else tuple(float(value) for value in box)
    except (TypeError, ValueError, AttributeError, MaskError) as error:
        raise PromptError(f"{dict(facts)} is no prompt: {error}") from None
    if corners is not None and len(corners) != 4:
        raise PromptError(f"a box is x1, y1, x2, y2, not {list(corners)}")
    return RegionPrompt(box=corners, points=points, labels=labels, mask=mask)  # type: ignore[arg-type]


def texts_json(texts: dict[str, dict[str, GeneratedText]]) -> dict[str, dict[str, Any]]:
    """Task -> language -> text and score, as plain values."""
    return {
        task: {language: {"text": said.text, "score": float(said.score)} for language, said in answers.items()}
        for task, answers in texts.items()
    }
