"""Regions followed from frame to frame, and a frame's tokens made the moment it is there: for videos and streams."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pam_kit.contracts import PerceivedTokens, ProjectedTokens, RegionFeatures, RegionPrompt
from pam_kit.data.prepare import Geometry, collate, prepare
from pam_kit.errors import PamKitError
from pam_kit.geometry import tight_box
from pam_kit.inference.latency import Latency
from pam_kit.inference.presence import in_sight
from pam_kit.inference.region_masks import full_size
from pam_kit.model import RegionVLM


@dataclass
class SeenRegion:
    """One region in one frame of H x W pixels.

    ``mask_logits`` (4h, 4w); ``iou`` is the IoU that the model expects of the mask; ``object_score``: the probability
    that the object is in sight, in [0, 1]; ``size`` = (H, W).
    """

    mask_logits: Tensor
    iou: float
    object_score: float
    size: tuple[int, int]

    @property
    def coarse(self) -> np.ndarray:
        """(4h, 4w) boolean mask."""
        return (self.mask_logits > 0).numpy()

    def mask(self) -> np.ndarray:
        """(H, W) boolean mask in the frame's own pixels."""
        return full_size(self.mask_logits, self.size)

    def box(self) -> tuple[float, float, float, float] | None:
        """The mask's tight box (x1, y1, x2, y2) in the frame's pixels, or None where the mask is empty."""
        return self._box

    @property
    def in_sight(self) -> bool:
        """Whether the object is seen: by its score, and by a mask that is not empty."""
        return in_sight(self.object_score, 0 if self._box is None else 1)

    @cached_property
    def _box(self) -> tuple[float, float, float, float] | None:
        return tight_box(self.mask())


def seen_regions(regions: RegionFeatures, size: tuple[int, int]) -> list[SeenRegion]:
    """What R regions look like in a frame of ``size`` = (H, W); holds nothing of the features but the masks."""
    logits = regions.mask_logits[:, 0].float().cpu()
    ious, scores = regions.iou.float().cpu().tolist(), regions.object_score.float().sigmoid().cpu().tolist()
    # A row of a tensor would keep the whole tensor.
    return [SeenRegion(logits[i].clone(), ious[i], scores[i], size) for i in range(len(ious))]


class RegionFollower:
    """Follows regions with a model's backbone; every frame is encoded once, whatever happens in it.

    Args:
        model: in eval mode.
        latency: where the stages' times go.

    Raises:
        PamKitError: the model's backbone does not track.
    """

    def __init__(self, model: RegionVLM, latency: Latency):
        if not model.backbone.tracks:
            raise PamKitError(
                f"the backbone of this model ({type(model.backbone).__name__}) does not follow regions through frames; "
                "take a model with a backbone that tracks, such as one trained with pam-kit fit pam_tiny_video"
            )
        self.model, self.latency = model, latency
        self.geometry = Geometry.of(model.backbone)
        self.memory = model.backbone.new_memory()

    @torch.inference_mode()
    def step(self, image: np.ndarray, pointing: Sequence[tuple[int, RegionPrompt]] = ()) -> RegionFeatures:
        """The next frame -> the features of all regions that were pointed at by now.

        Args:
            image: (H, W, 3) uint8.
            pointing: (row, prompt) of regions that are pointed at in this frame; rows as ``VisionBackbone.observe``.

        Raises PromptError for a prompt that does not fit the frame; nothing has changed then.
        """
        backbone = self.model.backbone
        with self.latency.stage("encode"):
            prepared = prepare(image, [prompt for _, prompt in pointing], [], self.geometry)
            batch = collate([prepared], self.geometry).to(_device(self.model))
            features = backbone.encode(batch.images)
        with self.latency.stage("track"):
            prompts = batch.prompts if pointing else None
            regions = backbone.observe(features, self.memory, prompts, [row for row, _ in pointing])
            return self.model.with_crops(regions, batch.images)

    @torch.inference_mode()
    def perceived(self, regions: RegionFeatures) -> PerceivedTokens:
        """Tokens of R regions in a frame, in the backbone's width."""
        with self.latency.stage("perceive"):
            return self.model.perceived(regions)

    @torch.inference_mode()
    def projected(self, tokens: PerceivedTokens, later: bool) -> ProjectedTokens:
        """Tokens of R regions in a frame, in the decoder's width; ``later`` frames of a clip have fewer."""
        with self.latency.stage("project"):
            return self.model.projected(tokens, later)


def _device(model: RegionVLM) -> torch.device:
    return next(model.parameters()).device
