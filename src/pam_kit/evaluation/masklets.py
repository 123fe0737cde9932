"""What the masks of a followed region are worth: J, F and their mean, as DAVIS 2017 defines them, and presence.

Sources: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016,
section 4 (J and F); Pont-Tuset et al., "The 2017 DAVIS Challenge on Video Object Segmentation", section 3 (means).
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from pam_kit.errors import PamKitError

Mask: TypeAlias = np.ndarray | Tensor


class MaskletScore(Metric):
    """J, F, J&F and presence accuracy, each the mean over objects of its mean over the frames of an object.

    Only sums and counts are kept, so that the metrics of several processes add up.

    Args:
        tolerance: how far boundaries may lie apart, as a share of the picture's diagonal; see ``boundary_f``.
        skip_first: leave out the first frame of each object, in which its mask is given.
        skip_last: leave out the last frame too; DAVIS leaves out both.
        kwargs: those of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, tolerance: float = 0.008, skip_first: bool = False, skip_last: bool = False, **kwargs):
        super().__init__(**kwargs)
        _check_tolerance(tolerance)
        self.tolerance, self.skip_first, self.skip_last = tolerance, skip_first, skip_last
        for name in ("region", "boundary", "presence", "objects"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, predicted: Sequence[Mask], truth: Sequence[Mask]) -> None:
        """One object: a boolean (H, W) mask a frame, nothing set where the object is out of sight.

        Raises PamKitError where the two have not equally many frames, none is left to judge, or masks do not fit.
        """
        pairs = self._judged(predicted, truth)
        self.region += sum(region_similarity(*pair) for pair in pairs) / len(pairs)
        self.boundary += sum(boundary_f(*pair, self.tolerance) for pair in pairs) / len(pairs)
        self.presence += presence_accuracy(*zip(*pairs, strict=True))
        self.objects += 1

    def compute(self) -> dict[str, Tensor]:
        """``J``, ``F``, ``J&F`` and ``presence accuracy``, () each, in [0, 1]; NaN where there was no object."""
        region, boundary = self.region / self.objects, self.boundary / self.objects
        return {
            "J": region,
            "F": boundary,
            "J&F": (region + boundary) / 2,
            "presence accuracy": self.presence / self.objects,
        }

    def _judged(self, predicted: Sequence[Mask], truth: Sequence[Mask]) -> list[tuple[np.ndarray, np.ndarray]]:
        _check_lengths(predicted, truth)
        chosen = range(int(self.skip_first), len(truth) - int(self.skip_last))
        if not chosen:
            skips = [name for name in ("skip_first", "skip_last") if getattr(self, name)]
            raise PamKitError(
                f"no frame to judge: the object has {len(truth)} frames"
                + (
                    f", and none is left with {' and '.join(skips)}; give more frames or switch that off"
                    if skips
                    else ""
                )
            )
        return [_pair(predicted[i], truth[i]) for i in chosen]


def region_similarity(pred: Mask, truth: Mask) -> float:
    """J of one frame: intersection over union of two boolean (H, W) masks; 1 where both are empty."""
    ours, theirs = _pair(pred, truth)
    union = np.count_nonzero(ours | theirs)
    return np.count_nonzero(ours & theirs) / union if union else 1.0


def boundary_f(pred: Mask, truth: Mask, tolerance: float = 0.008) -> float:
    """F of one frame: harmonic mean of the precision and the recall of boundary pixels.

    A boundary pixel is right where the other boundary has a pixel within ceil(``tolerance`` * diagonal) pixels: DAVIS'
    approximation of a one-to-one matching, by dilation with a disk. 1 where neither mask has a boundary, 0 where one
    has none; a mask that fills the picture has none.

    Args:
        pred, truth: boolean (H, W).
        tolerance: a share of the picture's diagonal, in [0, 1).
    """
    _check_tolerance(tolerance)
    ours, theirs = (_boundary(mask) for mask in _pair(pred, truth))
    num_ours, num_theirs = np.count_nonzero(ours), np.count_nonzero(theirs)
    if not num_ours or not num_theirs:
        return float(num_ours == num_theirs)
    radius = math.ceil(tolerance * math.hypot(*ours.shape))
    precision = _num_near(ours, theirs, radius) / num_ours
    recall = _num_near(theirs, ours, radius) / num_theirs
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def presence_accuracy(predicted: Sequence[Mask], truth: Sequence[Mask]) -> float:
    """Share of the frames of one object in which the masks agree on whether it is in sight, in [0, 1]."""
    _check_lengths(predicted, truth)
    if not len(truth):
        raise PamKitError("no frame to judge: the object has 0 frames")
    pairs = [_pair(ours, theirs) for ours, theirs in zip(predicted, truth, strict=True)]
    return sum(bool(ours.any()) == bool(theirs.any()) for ours, theirs in pairs) / len(pairs)


def _boundary(mask: np.ndarray) -> np.ndarray:
    """(H, W): pixels that differ from their right, lower or lower right neighbour, where there is one."""
    found = np.zeros_like(mask)
    found[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    found[:-1] |= mask[:-1] ^ mask[1:]
    found[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return found


def _num_near(pixels: np.ndarray, others: np.ndarray, radius: int) -> int:
    """How many of ``pixels`` have one of ``others`` within ``radius``, both (H, W) boolean.

    Only rows of the disk around each pixel are looked at, and only as many as it takes: with the running count of
    ``others``, a row of any width holds none of them where the counts at its two ends are equal.
    """
    height, width = others.shape
    stride = width + radius  # rows end in as many empty pixels as a row of the disk may reach beyond
    padded = np.zeros((height + 2 * radius, stride), dtype=bool)
    padded[radius : radius + height, :width] = others
    before = np.zeros(padded.size + 1, dtype=np.int32)
    np.cumsum(padded, out=before[1:])
    rows, columns = np.nonzero(pixels)
    lonely = (rows + radius) * stride + columns
    for row in sorted(range(-radius, radius + 1), key=abs):
        reach, middle = math.isqrt(radius**2 - row**2), lonely + row * stride
        lonely = lonely[before[middle - reach] == before[middle + reach + 1]]
    return len(rows) - len(lonely)


def _pair(predicted: Mask, truth: Mask) -> tuple[np.ndarray, np.ndarray]:
    ours, theirs = _array(predicted, "predicted"), _array(truth, "true")
    if ours.shape != theirs.shape:
        raise PamKitError(
            f"the predicted mask is {ours.shape[1]}x{ours.shape[0]} pixels, the true one "
            f"{theirs.shape[1]}x{theirs.shape[0]}; bring them to one size"
        )
    return ours, theirs


def _array(mask: Mask, name: str) -> np.ndarray:
    found = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else mask
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype != bool:
        given = f"{found.shape} {found.dtype}" if isinstance(found, np.ndarray) else type(found).__name__
        raise PamKitError(f"a {name} mask must be a boolean (H, W) array or tensor, not {given}; threshold it")
    return found


def _check_lengths(predicted: Sequence[Mask], truth: Sequence[Mask]) -> None:
    if len(predicted) != len(truth):
        raise PamKitError(f"{len(predicted)} predicted masks but {len(truth)} true ones; give one a frame of each")


def _check_tolerance(tolerance: float) -> None:
    if not 0 <= tolerance < 1:
        raise PamKitError(f"tolerance {tolerance} is not a share of the picture's diagonal; give one from 0 to below 1")
