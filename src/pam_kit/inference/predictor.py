"""Point at regions of pictures; get masks and texts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError

from pam_kit.checkpoints import load_model
from pam_kit.contracts import GeneratedText, RegionFeatures, RegionPrompt
from pam_kit.data.prepare import Asked, Geometry, PreparedImage, collate, prepare
from pam_kit.errors import PamKitError, PromptError
from pam_kit.inference.result import RegionPrediction
from pam_kit.model import RegionVLM
from pam_kit.tasks import question


class RegionPredictor:
    """Answers questions about regions with one trained model.

    Args:
        model: a RegionVLM; it is put into eval mode.
        device: where to compute; the first accelerator by default, else the CPU.

    Example:
        >>> predictor = RegionPredictor.from_run("runs/pam_tiny")
        >>> regions = predictor.predict("photo.jpg", [RegionPrompt(box=(10, 20, 110, 90))])
        >>> regions[0].texts["recognize"]["en"].text, regions[0].mask.sum()
    """

    def __init__(self, model: RegionVLM, device: torch.device | str | None = None):
        self.device = _usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.eval().to(self.device)
        self.geometry = Geometry.of(model.backbone)

    @classmethod
    def from_run(cls, folder: str | Path, device: torch.device | str | None = None) -> "RegionPredictor":
        """Load the model of a run folder."""
        return cls(load_model(folder)[0], device)

    def predict(
        self,
        image: str | Path | Image.Image | np.ndarray,
        prompts: Sequence[RegionPrompt],
        tasks: Sequence[str] = ("recognize",),
        languages: Sequence[str] = ("en",),
        max_new_tokens: int = 64,
    ) -> list[RegionPrediction]:
        """One picture, encoded once -> one prediction a prompt, masks in the picture's own size.

        Raises PromptError naming the region whose prompt does not fit the picture.
        """
        return self.predict_batch([image], [prompts], tasks, languages, max_new_tokens)[0]

    def predict_batch(
        self,
        images: Sequence[str | Path | Image.Image | np.ndarray],
        prompts: Sequence[Sequence[RegionPrompt]],
        tasks: Sequence[str] = ("recognize",),
        languages: Sequence[str] = ("en",),
        max_new_tokens: int = 64,
    ) -> list[list[RegionPrediction]]:
        """Several pictures at once; each is encoded once."""
        arrays = [as_array(image) for image in images]
        prepared = [
            self._prepared(array, list(own), tasks, languages) for array, own in zip(arrays, prompts, strict=True)
        ]
        batch = collate(prepared, self.geometry).to(self.device)
        regions, answers = self.model.answer(
            batch.images, batch.image_index, batch.prompts, batch.questions, max_new_tokens
        )
        texts: list[dict[str, dict[str, GeneratedText]]] = [{} for _ in range(len(batch))]
        asked = batch.questions
        for region, task, language, answer in zip(
            asked.region_index.tolist(), asked.tasks, asked.languages, answers, strict=True
        ):
            texts[region].setdefault(task, {})[language] = answer
        rows = iter(range(len(batch)))
        return [
            [_prediction(prompt, regions, next(rows), array.shape[:2], texts) for prompt in own]
            for own, array in zip(prompts, arrays, strict=True)
        ]

    def _prepared(
        self, image: np.ndarray, prompts: list[RegionPrompt], tasks: Sequence[str], languages: Sequence[str]
    ) -> PreparedImage:
        asked = [
            Asked(i, task, language, question(task, language))
            for i in range(len(prompts))
            for task in tasks
            for language in languages
        ]
        for i, prompt in enumerate(prompts):
            try:
                prompt.check(image.shape[1], image.shape[0])
            except PromptError as error:
                raise PromptError(f"region {i + 1} of {len(prompts)}: {error}") from None
        return prepare(image, prompts, asked, self.geometry)


def _usable(device: torch.device | str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise PamKitError(f"device {str(device)!r} cannot be used here: {reason}") from error


def as_array(image: str | Path | Image.Image | np.ndarray) -> np.ndarray:
    """A picture file (turned as its EXIF data says), PIL picture or array -> (H, W, 3) uint8 RGB."""
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise PamKitError(f"a picture array must be (H, W, 3) uint8 RGB, not {image.shape} {image.dtype}")
        return image
    if isinstance(image, Image.Image):
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    try:
        with Image.open(image) as opened:
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    except FileNotFoundError:
        raise PamKitError(f"no picture at {image}") from None
    except (UnidentifiedImageError, OSError) as error:
        raise PamKitError(f"{image} cannot be read as a picture: {error}") from error


def _prediction(
    prompt: RegionPrompt, regions: RegionFeatures, row: int, size: tuple[int, int], texts: list
) -> RegionPrediction:
    logits = F.interpolate(regions.mask_logits[row : row + 1].float(), size=size, mode="bilinear", align_corners=False)
    return RegionPrediction(
        prompt=prompt,
        mask=(logits[0, 0] > 0).cpu().numpy(),
        iou=float(regions.iou[row]),
        object_score=float(regions.object_score[row].sigmoid()),
        texts=texts[row],
    )
