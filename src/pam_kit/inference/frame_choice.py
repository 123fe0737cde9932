"""Which frames of a video the decoder reads, by name: evenly, all, or where the mask changes."""

import heapq
from abc import ABC, abstractmethod

import numpy as np

from pam_kit.data.clips import sampled_frames
from pam_kit.errors import PromptError
from pam_kit.geometry import mask_iou

SAMPLERS = ("uniform", "all", "mask_change")


class FrameChoice(ABC):
    """Chooses among the frames of a video while they go by, in any order; the prompted frame is always chosen.

    ``offer`` says whether a frame's tokens are wanted as it looks now and which earlier one is not wanted any more, so
    that tokens of at most ``wanted`` frames are ever kept.
    """

    @abstractmethod
    def offer(self, index: int, mask: np.ndarray) -> tuple[bool, int | None]:
        """(whether frame ``index`` is chosen, a formerly chosen frame that is dropped for it).

        ``mask`` is the region's coarse (h, w) boolean mask; frames come away from the prompted one, step by step.
        """


class EvenFrames(FrameChoice):
    """The prompted frame, and ``wanted`` - 1 others spread evenly over the rest of ``count`` frames.

    With the prompt on the first frame these are the released PAM's; ``wanted`` None takes all.
    """

    def __init__(self, count: int, wanted: int | None, prompted: int):
        others = [index for index in range(count) if index != prompted]
        positions = range(count) if wanted is None else sampled_frames(count, wanted)
        self._chosen = {prompted, *(others[position - 1] for position in positions if position)}

    def offer(self, index: int, mask: np.ndarray) -> tuple[bool, int | None]:
        return index in self._chosen, None


class ChangingFrames(FrameChoice):
    """The prompted frame, and the ``wanted`` - 1 at which the mask differs most from that of the frame before.

    The change is 1 - IoU with the neighbour towards the prompted frame; of equal changes the earlier offer stays.
    """

    def __init__(self, wanted: int, prompted: int):
        self._room, self._prompted = wanted - 1, prompted
        self._start: np.ndarray | None = None
        self._neighbours: dict[bool, np.ndarray] = {}
        self._kept: list[tuple[float, int, int]] = []
        self._offers = 0

    def offer(self, index: int, mask: np.ndarray) -> tuple[bool, int | None]:
        if index == self._prompted:
            self._start = mask
            return True, None
        forward = index > self._prompted
        neighbour = self._neighbours.get(forward, self._start)
        change = 0.0 if neighbour is None else 1.0 - mask_iou(mask, neighbour)
        self._neighbours[forward] = mask
        self._offers += 1
        entry = (change, -self._offers, index)
        if len(self._kept) < self._room:
            heapq.heappush(self._kept, entry)
            return True, None
        if not self._kept or entry <= self._kept[0]:
            return False, None
        return True, heapq.heapreplace(self._kept, entry)[2]


def frame_choice(sampler: str, count: int, wanted: int, prompted: int) -> FrameChoice:
    """The choice of a name in SAMPLERS, for a region prompted in frame ``prompted`` of ``count``.

    Raises PromptError for an unknown name or no frame at all.
    """
    if wanted < 1 or count < 1:
        raise PromptError(f"{wanted} frames of a video of {count} are to be read; both must be at least 1")
    if sampler == "mask_change":
        return ChangingFrames(wanted, prompted)
    if sampler not in SAMPLERS:
        raise PromptError(f"unknown frame sampler {sampler!r}; choose from {', '.join(SAMPLERS)}")
    return EvenFrames(count, None if sampler == "all" else wanted, prompted)
