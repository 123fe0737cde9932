"""Masks of the regions that were asked about last, so that they need not be made again."""

from collections import OrderedDict
from collections.abc import Hashable

from pam_kit.inference.asked_regions import AskedRegion
from pam_kit.inference.kept_readings import KeptReadings
from pam_kit.inference.region_masks import RegionMasks


class KeptMasks:
    """Masks by region, by the candidate that it shows, and by whether it came with hypotheses.

    Args:
        readings: what the decoder has read; masks of a region alone do not save the work of segmenting it.
    """

    def __init__(self, readings: KeptReadings):
        self._readings = readings
        self._masks: OrderedDict[Hashable, RegionMasks] = OrderedDict()  # the last used stand last

    def add(self, region: AskedRegion, hypotheses: bool, masks: RegionMasks) -> None:
        """Keep the masks of a region until ``shrink``."""
        self._masks[region.name, region.candidate, hypotheses] = masks

    def of(self, region: AskedRegion, hypotheses: bool) -> RegionMasks | None:
        """Those of an earlier ask; None where there are none, or the decoder has not kept all that it read of them."""
        name = (region.name, region.candidate, hypotheses)
        if (masks := self._masks.get(name)) is None:
            return None
        meant: list[int | None] = [one.candidate for one in masks.candidates]
        candidates = meant or [region.candidate]
        if any((region.name, candidate) not in self._readings for candidate in candidates):
            return None
        self._masks.move_to_end(name)
        return masks

    def shrink(self, most: int) -> None:
        """Forget all but those of the ``most`` regions that were asked about last."""
        while len(self._masks) > most:
            self._masks.popitem(last=False)
