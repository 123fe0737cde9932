"""A picture with all that was found in it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from pam_kit.contracts import GeneratedText
from pam_kit.data.masks import decode_rle
from pam_kit.inference.everything_lines import PictureLines
from pam_kit.inference.found_regions import LABEL, FoundRegion
from pam_kit.inference.overlay import draw_regions
from pam_kit.inference.result import RegionPrediction, prompt_from_json

# More numbers and lines of legend cannot be told apart.
MOST_DRAWN = 40


def draw_everything(
    image: np.ndarray, regions: Sequence[FoundRegion], languages: Sequence[str] = ("en",)
) -> Image.Image:
    """The picture with its best 40 regions, numbered as they come, and a legend of what is said of them.

    Args:
        image: (H, W, 3) uint8, RGB.
        regions: by falling score.
        languages: whose texts the legend shows, in this order.
    """
    return draw_regions(image, [one.prediction() for one in regions[:MOST_DRAWN]], languages, prompts=False)


def draw_lines(image: np.ndarray, picture: PictureLines, languages: Sequence[str] = ("en",)) -> Image.Image:
    """The same of what is kept of a picture.

    Raises PamKitError where the picture has another size than its regions.
    """
    return draw_regions(image, [_kept(one) for one in picture.regions[:MOST_DRAWN]], languages, prompts=False)


def _kept(facts: Mapping[str, Any]) -> RegionPrediction:
    """What ``FoundRegion.to_json`` tells, as ``FoundRegion.prediction``."""
    labels = [GeneratedText(one["name"], one["confidence"]) for one in facts.get("labels", ())]
    texts = {
        task: {language: GeneratedText(said["text"], said["score"]) for language, said in answers.items()}
        for task, answers in facts.get("texts", {}).items()
    }
    return RegionPrediction(
        prompt=prompt_from_json(facts["prompt"]),
        mask=decode_rle(facts["segmentation"]),
        iou=facts["predicted_iou"],
        object_score=facts["object_score"],
        texts=({LABEL: {"en": labels[0]}} if labels else {}) | texts,
    )
