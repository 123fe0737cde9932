"""IoU of masks: by hand, and joined."""

import math

import numpy as np
import pytest
import torch

from pam_kit.errors import PamKitError
from pam_kit.evaluation.metrics.masks import MaskIoU

EMPTY = np.zeros((4, 4), bool)
LEFT, TOP = EMPTY.copy(), EMPTY.copy()
LEFT[:, :2], TOP[:1] = True, True


def test_mean_and_cumulative_iou():
    metric = MaskIoU()
    metric.update([LEFT, torch.from_numpy(LEFT), EMPTY], [TOP, LEFT, EMPTY])
    found = metric.compute()
    assert float(found["mask_iou"]) == pytest.approx((2 / 10 + 1 + 1) / 3)
    assert float(found["cumulative_iou"]) == pytest.approx((2 + 8) / (10 + 8))


def test_merged_as_one():
    one, other, whole = MaskIoU(), MaskIoU(), MaskIoU()
    one.update([LEFT], [TOP])
    other.update([LEFT, TOP], [LEFT, EMPTY])
    whole.update([LEFT, LEFT, TOP], [TOP, LEFT, EMPTY])
    one.merge_state(other)
    assert one.compute() == whole.compute()


def test_bad_masks_are_named():
    with pytest.raises(PamKitError, match="1 predicted masks but 0 true ones"):
        MaskIoU().update([LEFT], [])
    with pytest.raises(PamKitError, match="bring them to one size"):
        MaskIoU().update([LEFT], [LEFT[:2]])
    with pytest.warns(UserWarning):
        assert math.isnan(MaskIoU().compute()["mask_iou"])
