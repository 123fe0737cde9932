"""The two MLPs of the projector."""

import torch

from pam_kit.registry import find
from pam_kit.training.parity.golden_file import GoldenFile
from pam_kit.training.parity.report import Comparison, close
from pam_kit.training.parity.weights import fill

_MERGED = 4


def check_projector(file: GoldenFile) -> list[Comparison]:
    """Random merged image tokens and semantic tokens through the MLPs."""
    image, semantic = file.tensor("image_tokens"), file.tensor("sem_tokens")
    width = semantic.shape[-1]
    projector = find("projector", "pam").build(embed_dim=width, output_dim=int(file.said("hidden")))
    parts = {"projector.visual": projector.visual, "projector.semantic": projector.semantic}
    found = fill(parts, file, "model.")
    with torch.inference_mode():
        found.append(close("image_out", projector.visual(image), file.tensor("image_out")))
        found.append(close("sem_out", projector.semantic(semantic), file.tensor("sem_out")))
    return found
