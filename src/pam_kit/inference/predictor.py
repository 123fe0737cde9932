"""Point at regions of pictures; get masks and texts."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from pam_kit.checkpoints import load_model, model_sha256
from pam_kit.contracts import Precision, RegionPrompt
from pam_kit.data.prepare import Geometry
from pam_kit.errors import PamKitError, PromptError
from pam_kit.inference.pictures import Picture, as_array
from pam_kit.inference.result import RegionPrediction
from pam_kit.inference.session import Session
from pam_kit.inference.session_settings import SessionSettings
from pam_kit.model import RegionVLM

__all__ = ["RegionPredictor", "as_array"]


class RegionPredictor:
    """Answers questions about regions with one trained model.

    Args:
        model: a RegionVLM; it is put into eval mode.
        device: where to compute; the first accelerator by default, else the CPU.
        settings: how much is done at once, see SessionSettings.
        precision: what the decoder computes in from now on, see ``Decoder.lower_precision``; null leaves it as it is.

    Attributes:
        checkpoint: the run folder or hub name that holds the model; None where it was given as it is.

    Example:
        >>> predictor = RegionPredictor.from_run("runs/pam_tiny")
        >>> regions = predictor.predict("photo.jpg", [RegionPrompt(box=(10, 20, 110, 90))])
        >>> regions[0].texts["recognize"]["en"].text, regions[0].mask.sum()
    """

    def __init__(
        self,
        model: RegionVLM,
        device: torch.device | str | None = None,
        settings: SessionSettings | None = None,
        precision: Precision | None = None,
    ):
        self.device = _usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if precision is not None:
            # Ahead of the move: a device for which the decoder is too large need not hold it as it was.
            model.decoder.lower_precision(precision, self.device)
        self.model = model.eval().to(self.device)
        self.checkpoint: str | Path | None = None
        self.geometry, self.settings = Geometry.of(model.backbone), settings or SessionSettings()

    @classmethod
    def from_run(
        cls,
        folder: str | Path,
        device: torch.device | str | None = None,
        settings: SessionSettings | None = None,
        precision: Precision | None = None,
    ) -> "RegionPredictor":
        """Load the model of a run folder."""
        predictor = cls(load_model(folder)[0], device, settings, precision)
        predictor.checkpoint = folder
        return predictor

    @cached_property
    def sha256(self) -> str | None:
        """SHA-256 of the files of the model, to tell it from others; None where no run holds it."""
        return None if self.checkpoint is None else model_sha256(self.checkpoint)

    def open(self, *images: Picture) -> Session:
        """A session about one picture, or several, each of which is encoded now and never again."""
        return Session(self.model, images, self.settings)

    def predict(
        self,
        image: Picture,
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
        images: Sequence[Picture],
        prompts: Sequence[Sequence[RegionPrompt]],
        tasks: Sequence[str] = ("recognize",),
        languages: Sequence[str] = ("en",),
        max_new_tokens: int = 64,
    ) -> list[list[RegionPrediction]]:
        """Several pictures at once; each is encoded once."""
        arrays = [as_array(image) for image in images]
        for array, own in zip(arrays, prompts, strict=True):
            check_prompts(own, array)
        session = Session(self.model, arrays, self.settings)
        pictures = [number for number, own in enumerate(prompts) for _ in own]
        flat = [prompt for own in prompts for prompt in own]
        answered = iter(session.ask(flat, tasks, languages, max_new_tokens, pictures=pictures))
        return [[_whole(next(answered), number, len(own)) for number in range(len(own))] for own in prompts]


def check_prompts(prompts: Sequence[RegionPrompt], picture: np.ndarray) -> None:
    """Raise PromptError that names the first region whose prompt does not fit the picture (H, W, 3)."""
    for number, prompt in enumerate(prompts, 1):
        try:
            prompt.check(picture.shape[1], picture.shape[0])
        except PromptError as error:
            raise PromptError(f"region {number} of {len(prompts)}: {error}") from None


def _whole(prediction: RegionPrediction, number: int, count: int) -> RegionPrediction:
    """The prediction; whoever asks without looking at errors gets no half of one."""
    if prediction.error is not None:
        raise PamKitError(f"region {number + 1} of {count}: {prediction.error}")
    return prediction


def _usable(device: torch.device | str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise PamKitError(f"device {str(device)!r} cannot be used here: {reason}") from error
