"""Pictures encoded once, and what a model sees at regions of them."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pam_kit.contracts import ImageFeatures, RegionFeatures
from pam_kit.data.prepare import Geometry, model_image, prompt_batch
from pam_kit.errors import PamKitError
from pam_kit.inference.asked_regions import AskedRegion, View
from pam_kit.inference.out_of_memory import in_halves
from pam_kit.inference.session_settings import Bounds, Work
from pam_kit.model import RegionVLM


@dataclass
class _Encoded:
    """Some of the pictures, from number ``start`` on: ``images`` (B, 3, S, S) uint8 and their features."""

    start: int
    images: Tensor
    features: ImageFeatures


class Looking:
    """The half of a session that sees: pictures are encoded here and now, regions segmented and perceived on demand.

    Args:
        model: a RegionVLM in eval mode.
        pictures: (H, W, 3) uint8 arrays.
        bounds: how much is done at once.
        work: what is computed is counted there.
    """

    def __init__(self, model: RegionVLM, pictures: Sequence[np.ndarray], bounds: Bounds, work: Work):
        self.model, self._bounds, self._work = model, bounds, work
        self._geometry, self._device = Geometry.of(model.backbone), next(model.parameters()).device
        numbered, size = list(enumerate(pictures)), bounds.now.picture_batch
        self._encoded = [
            encoded
            for start in range(0, len(numbered), size)
            for encoded in in_halves(numbered[start : start + size], self._encode, self._fewer, self._failed)
        ]

    def chunks(self, regions: Sequence[AskedRegion]) -> Iterator[list[AskedRegion]]:
        """At most ``region_batch`` neighbours each, in pictures that were encoded together."""
        chunk: list[AskedRegion] = []
        for region in regions:
            # The bound may have become lower since the last chunk.
            full = len(chunk) >= self._bounds.now.region_batch
            if chunk and (full or self._place(chunk[0]) is not self._place(region)):
                yield chunk
                chunk = []
            chunk.append(region)
        if chunk:
            yield chunk

    def segment(self, chunk: Sequence[AskedRegion]) -> RegionFeatures:
        """The features of the regions of a chunk."""
        sizes = [(region.size[1], region.size[0]) for region in chunk]
        prompts = prompt_batch([region.prompt for region in chunk], sizes, self._geometry).to(self._device)
        features = self.model.backbone.segment(self._place(chunk[0]).features, self._rows(chunk), prompts)
        self._work.regions += len(chunk)
        return features

    def perceive(
        self, views: Sequence[View], chunk: Sequence[AskedRegion], features: RegionFeatures
    ) -> Iterator[Tensor]:
        """What the decoder reads of each view, (L, D); ``features`` are those of ``chunk``, which has their regions."""
        most = self._bounds.now.region_batch
        for start in range(0, len(views), most):
            part = views[start : start + most]
            own = features.of_rows([chunk.index(view.region) for view in part])
            if any(view.candidate is not None for view in part):
                rows = [(own.of_rows([row]), view.candidate) for row, view in enumerate(part)]
                shown = [region if one is None else region.hypothesis(one) for region, one in rows]
                own = RegionFeatures.joined(shown)
            about = [view.region for view in part]
            seen = self.model.with_crops(own, self._place(about[0]).images, self._rows(about))
            self._work.views += len(part)
            # A row alone would keep those of all.
            yield from (prefix.clone() for prefix in self.model.prefix(self.model.perceive(seen)))

    def prefixes(self, views: Sequence[View], waiting: dict[Hashable, Tensor]) -> Tensor:
        """(R, L, D): what the decoder reads of each view; those that are not ``waiting`` are made now and join it."""
        late = [view for view in views if view.name not in waiting]
        for chunk in self.chunks(list(dict.fromkeys(view.region for view in late))):
            own = [view for view in late if view.region in chunk]
            for view, prefix in zip(own, self.perceive(own, chunk, self.segment(chunk)), strict=True):
                waiting[view.name] = prefix
        return torch.stack([waiting[view.name] for view in views])

    def _place(self, region: AskedRegion) -> _Encoded:
        return next(one for one in reversed(self._encoded) if one.start <= region.picture)

    def _rows(self, regions: Sequence[AskedRegion]) -> Tensor:
        start = self._place(regions[0]).start
        return torch.tensor([region.picture - start for region in regions], device=self._device)

    def _encode(self, part: list[tuple[int, np.ndarray]]) -> Iterator[_Encoded]:
        images = torch.stack([model_image(array, self._geometry.image_size) for _, array in part]).to(self._device)
        encoded = _Encoded(part[0][0], images, self.model.backbone.encode(images))
        self._work.pictures += len(part)
        yield encoded

    def _fewer(self, part: list[tuple[int, np.ndarray]]) -> None:
        self._bounds.halve("picture_batch", len(part), "pictures at once")

    def _failed(self, _one: tuple[int, np.ndarray], reason: str) -> Iterator[_Encoded]:
        raise PamKitError(f"there is not enough memory to encode a single picture: {reason}")
