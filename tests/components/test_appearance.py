"""What regions look like, in closed form, and a search by looks for a region that has jumped away."""

import math

import pytest
import torch

from pam_kit.components.backbones.appearance import appearance, likeness
from pam_kit.components.backbones.prompt_tracking import PromptMemory
from pam_kit.contracts import ImageFeatures


def painted() -> tuple[ImageFeatures, torch.Tensor]:
    """A 4 x 4 grid of one feature a quarter, and masks of the quarters, of half of the first, and of nothing."""
    embedding = torch.zeros(1, 4, 4, 4)
    masks = torch.zeros(6, 1, 16, 16, dtype=torch.bool)
    for quarter in range(4):
        y, x = 2 * (quarter // 2), 2 * (quarter % 2)
        embedding[0, quarter, y : y + 2, x : x + 2] = 1
        masks[quarter, :, 4 * y : 4 * y + 8, 4 * x : 4 * x + 8] = True
    masks[4, :, :8, :4] = True
    return ImageFeatures(embedding, (embedding.repeat_interleave(4, 2).repeat_interleave(4, 3),)), masks


def test_looks_are_centred_averages_of_length_one():
    features, masks = painted()
    looks = appearance(features, torch.zeros(6, dtype=torch.long), masks)
    torch.testing.assert_close(looks[:5].norm(dim=1), torch.ones(5))
    # (1, 0, 0, 0) less the picture's (1/4, ...) against (0, 1, 0, 0) less it: the corners of a tetrahedron.
    torch.testing.assert_close(likeness(looks[:4, None], looks[None, :4]), torch.eye(4) * (4 / 3) - 1 / 3)
    assert likeness(looks[0], looks[4]) == pytest.approx(1) and not looks[5].any()


def test_a_region_is_searched_for_around_its_place():
    memory = PromptMemory(64, 16)
    memory.box, memory.size = torch.tensor([[20.0, 24, 28, 40]]), torch.tensor([[8.0, 16.0]])
    memory.velocity, memory.missing = torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)
    boxes = memory.around(torch.tensor([0]))[0]
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2 - torch.tensor([24.0, 32.0])
    assert boxes.shape == (16, 4) and boxes.min() >= 0 and boxes.max() <= 64
    # Two rings of eight: half a side and a whole side away, along the axes and the diagonals.
    steps = {(x * ring * 8, y * ring * 16) for ring in (0.5, 1) for x in (-1, 0, 1) for y in (-1, 0, 1)} - {(0.0, 0.0)}
    found = {tuple(step) for step in middles.tolist()}
    assert len(found & steps) >= 14 and math.isclose(float(boxes[0, 2] - boxes[0, 0]), 8 * 1.15, rel_tol=1e-5)
