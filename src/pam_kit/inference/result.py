"""What the model says about one region: its mask, how sure it is, and its texts."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pam_kit.contracts import GeneratedText, RegionPrompt
from pam_kit.data.masks import encode_rle
from pam_kit.errors import PamKitError
from pam_kit.geometry import tight_box


@dataclass(frozen=True, eq=False)
class RegionPrediction:
    """One region of a picture of H x W pixels.

    Args:
        prompt: how it was pointed at.
        mask: (H, W) boolean array of the picture's own size; may be empty.
        iou: the IoU that the model expects of the mask.
        object_score: probability that there is an object at the prompt, in [0, 1].
        texts: task -> language -> answer.

    Raises:
        PamKitError: the mask is not a boolean (H, W) array.
    """

    prompt: RegionPrompt
    mask: np.ndarray
    iou: float
    object_score: float
    texts: dict[str, dict[str, GeneratedText]] = field(default_factory=dict)

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
        """
        return {
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


def texts_json(texts: dict[str, dict[str, GeneratedText]]) -> dict[str, dict[str, Any]]:
    """Task -> language -> text and score, as plain values."""
    return {
        task: {language: {"text": said.text, "score": float(said.score)} for language, said in answers.items()}
        for task, answers in texts.items()
    }
