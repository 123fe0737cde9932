"""When a stream should speak by itself: when its masks or its scene have changed. Torch-free."""

import math
from collections.abc import Collection

import numpy as np
from PIL import Image

from pam_kit.errors import PamKitError
from pam_kit.geometry import mask_iou
from pam_kit.inference.triggers import SLACK, State, Trigger, TriggerFrame, written

_SIDE = 32  # of the small pictures that scenes are compared by
_LEAST_CONTRAST = 8.0  # grey levels: less than that is noise, not a scene


class MaskChangeTrigger(Trigger):
    """When the mask of a region is another than when the stream last spoke, and has been so for a while.

    A region that moved, grew, shrank, vanished or appeared has changed. Before the stream has spoken of it, a region is
    compared with the first frame in which it is there.

    Args:
        threshold: a mask has changed where its IoU with the former one is below 1 - threshold; two empty masks are
            alike. Between 0 and 1.
        settle: seconds for which a mask has to have changed without a break, so that a flickering mask is no reason.
    """

    def __init__(self, threshold: float = 0.5, settle: float = 0.5):
        if not 0 < threshold < 1:
            raise PamKitError(f"threshold {threshold} of the mask change is not between 0 and 1")
        if not (math.isfinite(settle) and settle >= 0):
            raise PamKitError(f"settle {settle} is no length of time; give seconds from 0 up")
        self.threshold, self.settle = threshold, settle
        self.description = f"mask change over {threshold:g} for {written(settle)}"
        self._reference: dict[int, np.ndarray] = {}  # region -> (h, w)
        self._since: dict[int, float] = {}  # region -> when its mask began to differ from it

    def should_speak(self, frame: TriggerFrame) -> str | None:
        masks = _by_region(frame)
        self._forget_all_but(masks)
        for region, mask in masks.items():
            if mask_iou(self._known(region, mask), mask) < 1 - self.threshold:
                self._since.setdefault(region, float(frame.time))
            else:
                self._since.pop(region, None)
        settled = any(frame.time - since >= self.settle - SLACK for since in self._since.values())
        return "mask change" if settled else None

    def spoken(self, frame: TriggerFrame) -> None:
        for region, mask in _by_region(frame).items():
            self._reference[region] = mask.copy()
            self._since.pop(region, None)

    def _forget_all_but(self, regions: Collection[int]) -> None:
        for region in set(self._reference) - set(regions):
            del self._reference[region]
            self._since.pop(region, None)

    def _known(self, region: int, mask: np.ndarray) -> np.ndarray:
        """What to compare a region's mask with: the reference, for a new region the mask itself."""
        reference = self._reference.setdefault(region, mask.copy())
        if mask.shape != reference.shape:
            raise PamKitError(f"masks of {mask.shape} follow masks of {reference.shape}; keep to one size")
        return reference

    def _own_state(self) -> State:
        regions = list(self._reference)
        known = {"reference": np.stack([self._reference[region] for region in regions])} if regions else {}
        return {"regions": regions, "since": [self._since.get(region) for region in regions], **known}

    def _become(self, state: State) -> None:
        regions = state["regions"]
        self._reference = {
            region: np.array(mask, dtype=bool) for region, mask in zip(regions, state.get("reference", ()), strict=True)
        }
        self._since = {
            region: since for region, since in zip(regions, state["since"], strict=True) if since is not None
        }


class SceneChangeTrigger(Trigger):
    """When the picture differs from the one before as after a cut.

    Compared are grey pictures of 32 x 32 pixels of equal mean and contrast: brightness that flickers, a camera that
    finds its exposure and small movements are no cut. Slow changes never are.

    Args:
        threshold: of the mean absolute difference, in units of the standard deviation of the grey values; two pictures
            that have nothing in common lie about 1 apart.
    """

    def __init__(self, threshold: float = 0.5):
        if not (math.isfinite(threshold) and threshold > 0):
            raise PamKitError(f"threshold {threshold} of the scene change is not above 0")
        self.threshold, self.description = threshold, f"scene change over {threshold:g}"
        self._previous: np.ndarray | None = None  # (32, 32) float32
        self._cut = False

    def should_speak(self, frame: TriggerFrame) -> str | None:
        picture = _small_picture(frame.image)
        if self._previous is not None and np.abs(picture - self._previous).mean() > self.threshold:
            self._cut = True
        self._previous = picture
        return "scene change" if self._cut else None

    def spoken(self, frame: TriggerFrame) -> None:
        self._cut = False

    def _own_state(self) -> State:
        known = {} if self._previous is None else {"previous": self._previous.copy()}
        return {"cut": self._cut, **known}

    def _become(self, state: State) -> None:
        previous = state.get("previous")
        self._cut, self._previous = state["cut"], None if previous is None else np.array(previous, dtype=np.float32)


def _by_region(frame: TriggerFrame) -> dict[int, np.ndarray]:
    """Region -> (h, w) mask."""
    masks = frame.masks
    if not isinstance(masks, np.ndarray) or masks.ndim != 3 or masks.dtype != bool:
        given = f"{masks.shape} {masks.dtype}" if isinstance(masks, np.ndarray) else type(masks).__name__
        raise PamKitError(f"the masks of a frame must be a boolean (R, h, w) NumPy array, not {given}; threshold them")
    if len(masks) != len(frame.regions):
        raise PamKitError(f"{len(masks)} masks of the regions {list(frame.regions)}; give one mask a region")
    return dict(zip(frame.regions, masks, strict=True))


def _small_picture(image: np.ndarray | None) -> np.ndarray:
    """(H, W, 3) uint8 -> (32, 32) float32 of mean 0 and standard deviation 1, less where there is hardly contrast."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        given = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise PamKitError(
            f"a scene change is told by pictures, (H, W, 3) uint8, not {given}; give them with each frame"
        )
    small = Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BOX).convert("L")
    grey = np.asarray(small, dtype=np.float32)
    return (grey - grey.mean()) / max(float(grey.std()), _LEAST_CONTRAST)
