"""Regions as the decoder reads them, for whatever is asked of it besides answers: how likely texts are."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pam_kit.contracts import RegionFeatures, RegionPrompt
from pam_kit.data.prepare import collate, prepare
from pam_kit.inference.pictures import Picture, as_array
from pam_kit.inference.predictor import RegionPredictor, check_prompts


@torch.inference_mode()
def read_regions(
    predictor: RegionPredictor,
    images: Sequence[Picture],
    prompts: Sequence[Sequence[RegionPrompt]],
) -> tuple[RegionFeatures, Tensor]:
    """Pictures and the prompts in each -> the features of all R regions, and what the decoder reads of them, (R, L, D).

    Every picture is encoded once. Raises PromptError naming the region whose prompt does not fit its picture.
    """
    prepared = []
    for image, own in zip(images, prompts, strict=True):
        array = as_array(image)
        check_prompts(own, array)
        prepared.append(prepare(array, list(own), [], predictor.geometry))
    batch = collate(prepared, predictor.geometry).to(predictor.device)
    features = predictor.model.segment(batch.images, batch.image_index, batch.prompts)
    return features, predictor.model.prefix(predictor.model.perceive(features))
