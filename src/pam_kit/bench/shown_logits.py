"""The logits of the masks that the kit shows, which its answers do not hold."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from pam_kit.bench.stage_times import in_place_of
from pam_kit.contracts import RegionFeatures, RegionPrompt
from pam_kit.inference.session import Session
from pam_kit.model import RegionVLM


def segmented_logits(session: Session, regions: Sequence[RegionPrompt], pictures: Sequence[int]) -> list[Tensor]:
    """Those (4h, 4w) of regions that a session has been asked about, which it segments in the same way once more."""
    found: dict[int, Tensor] = {}
    for numbers, features in session.segment(regions, pictures):
        found |= {number: features.mask_logits[row, 0].clone() for row, number in enumerate(numbers)}
    return [found[number] for number in range(len(regions))]


@contextmanager
def followed_logits(model: RegionVLM) -> Iterator[Callable[[], list[Tensor]]]:
    """Meanwhile those (4h, 4w) of all regions that are followed are kept; -> what gives them, region by region, each
    with all of its frames. The regions are pointed at in the first frame.
    """
    observe, seen = model.backbone.observe, list[Tensor]()

    def observed(*arguments: Any, **keywords: Any) -> RegionFeatures:
        regions = observe(*arguments, **keywords)
        seen.append(regions.mask_logits[:, 0])
        return regions

    with in_place_of(model.backbone, "observe", observed):
        yield lambda: [frame[row] for row in range(len(seen[0])) for frame in seen]
