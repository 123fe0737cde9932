"""Following regions by prompts alone: in every frame a region is pointed at by a box around what was seen of it.

Nothing here is learned, and no gradient flows back through the memory. Whether an object is there says the decoder's
object score; where it is gone, or looks like another one, it is searched for around by its looks. It is the oldest way
to track (the state of SORT, arXiv 1602.00763, with a smoothed velocity in the place of its Kalman filter) and needs
nothing of a backbone but ``segment`` and features to tell looks by.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pam_kit.components.backbones.region_rows import check_kept
from pam_kit.contracts import (
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    PAD_POINT,
    POSITIVE_POINT,
    PromptBatch,
    RegionFeatures,
    RegionMemory,
    mask_boxes,
)
from pam_kit.errors import PamKitError

# By how much of its sides a box is enlarged: for each frame since the object was seen, and at most.
MARGIN, MAX_MARGIN = 0.15, 0.6
# How much of the velocity comes from the last frame, and how much of it is left a frame after the object was lost.
VELOCITY_SHARE, VELOCITY_LEFT = 0.5, 0.8
# How fast an object is believed to shrink: what is seen of one that goes behind another shrinks faster.
SIZE_LEFT = 0.9
# An asked box has at least this many mask cells a side, so that it can be drawn.
MIN_CELLS = 2

# Around the box: by how many of its sides a region is searched for, and in which directions.
RINGS = (0.5, 1.0)
_DIRECTIONS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))
# A region that looks less like before is searched for around; one that is found there looks at least so much alike.
DOUBT, SURE = 0.5, 0.8
# How much of a region's look comes from the last frame.
LOOK_SHARE = 0.3

_TENSORS = ("box", "size", "velocity", "missing", "look")


class PromptMemory(RegionMemory):
    """Where each region was seen last, how it moved and for how long it has been gone.

    Args:
        image_size: S.
        cells: mask cells a side of the picture, 4h.
        device: where the tensors lie.

    Attributes:
        box: (R, 4) as x1, y1, x2, y2 in pixels of the model image, where the region was seen last.
        size: (R, 2) width and height of the whole object, of which the box may hold a part.
        velocity: (R, 2) pixels a frame when it was seen last.
        missing: (R,) long, frames since the object was seen; 0 where it was seen in the last one.
        look: (R, A) what the object looks like: see ``appearance``; zero where it was never seen. A is 0 until then.
    """

    def __init__(self, image_size: int, cells: int, device: torch.device | str = "cpu"):
        self.image_size, self.least = image_size, MIN_CELLS * image_size / cells
        self.box = torch.zeros(0, 4, device=device)
        self.size, self.velocity = torch.zeros(0, 2, device=device), torch.zeros(0, 2, device=device)
        self.missing = torch.zeros(0, dtype=torch.long, device=device)
        self.look = torch.zeros(0, 0, device=device)

    def __len__(self) -> int:
        return len(self.box)

    def places(self) -> Tensor:
        """(R, 4): the boxes to look into in the next frame.

        The last seen box, moved by the velocity and enlarged. While the object is gone it is looked for where it would
        be if it came to rest little by little, in a box of its whole size that grows, up to a limit. What leaves the
        picture is cut off, and where nothing remains a strip at that edge is looked at.
        """
        gone = self.missing[:, None]
        travelled = (1 - VELOCITY_LEFT ** (1 + gone)) / (1 - VELOCITY_LEFT)
        sides = torch.where(gone > 0, self.size, self.box[:, 2:] - self.box[:, :2])
        half = sides * (1 + (MARGIN * (1 + gone)).clamp(max=MAX_MARGIN)) / 2
        middle = (self.box[:, :2] + self.box[:, 2:]) / 2 + self.velocity * travelled
        return self._inside(torch.cat([middle - half, middle + half], dim=1))

    def around(self, rows: Tensor) -> Tensor:
        """(r, K, 4): boxes of the object's size around the place where each of some regions is looked for."""
        places = self.places()[rows]
        half, middle = self.size[rows] * (1 + MARGIN) / 2, (places[:, :2] + places[:, 2:]) / 2
        steps = torch.tensor([[x * ring, y * ring] for ring in RINGS for x, y in _DIRECTIONS]).to(middle)
        shifted = middle[:, None] + steps * self.size[rows][:, None]
        boxes = torch.cat([shifted - half[:, None], shifted + half[:, None]], dim=2)
        return self._inside(boxes.flatten(0, 1)).unflatten(0, boxes.shape[:2])

    def ask(self, prompts: PromptBatch, rows: Sequence[int]) -> PromptBatch:
        """Prompts for all regions, new ones among them: those given for ``rows``, boxes for the others."""
        count, length = max([len(self), *(row + 1 for row in rows)]), max(2, prompts.points.shape[1])
        points = prompts.points.new_zeros(count, length, 2)
        labels = prompts.labels.new_full((count, length), PAD_POINT)
        points[: len(self), :2] = self.places().reshape(-1, 2, 2).to(points)
        labels[:, 0], labels[:, 1] = BOX_TOP_LEFT, BOX_BOTTOM_RIGHT
        masks, has_mask = prompts.masks.new_zeros(count, *prompts.masks.shape[1:]), prompts.has_mask.new_zeros(count)
        index = torch.tensor(list(rows), dtype=torch.long, device=points.device)
        short = length - prompts.points.shape[1]
        points[index] = F.pad(prompts.points, (0, 0, 0, short))
        labels[index] = F.pad(prompts.labels, (0, short), value=PAD_POINT)
        masks[index], has_mask[index] = prompts.masks, prompts.has_mask
        return PromptBatch(points, labels, masks, has_mask)

    @torch.no_grad()
    def remember(
        self, regions: RegionFeatures, asked: PromptBatch, pointed: Tensor, look: Tensor | None = None
    ) -> None:
        """Keep where the regions are in the frame that was decoded last.

        An object is seen where its score is positive and its mask is not empty. A region that is pointed at begins
        anew, at the prompt where nothing is seen there.

        Args:
            regions: all of them, those that are new behind the others.
            asked: the prompts that ``ask`` gave.
            pointed: (R,) bool: which of them were given.
            look: (R, A): what they look like in it; None remembers no looks.
        """
        shown, seen = regions.mask_logits > 0, in_sight(regions)
        box = torch.where(seen[:, None], mask_boxes(shown, self.image_size), prompt_boxes(asked, self.image_size))
        box, pad = self._inside(box), (0, 0, 0, len(seen) - len(self))
        before, size, velocity = (F.pad(value, pad) for value in (self.box, self.size, self.velocity))
        missing = F.pad(self.missing, pad[2:])
        again, fresh = (seen & ~pointed)[:, None], pointed[:, None]
        sides = box[:, 2:] - box[:, :2]
        moved, left = _moved(before, box) / (1 + missing)[:, None], VELOCITY_LEFT ** missing[:, None]
        now = (1 - VELOCITY_SHARE) * left * velocity + VELOCITY_SHARE * moved
        self.box = torch.where(again | fresh, box, before)
        self.size = torch.where(fresh, sides, torch.where(again, torch.maximum(sides, SIZE_LEFT * size), size))
        self.velocity = torch.where(fresh, 0.0, torch.where(again, now, velocity))
        self.missing = torch.where(seen, 0, torch.where(pointed, 1, missing + 1))
        look = self.look.new_zeros(len(seen), self.look.shape[1]) if look is None else look
        former = F.pad(self.look, (0, look.shape[1] - self.look.shape[1], *pad[2:]))
        mixed = F.normalize((1 - LOOK_SHARE) * former + LOOK_SHARE * look, dim=1)
        self.look = torch.where(fresh, look * seen[:, None], torch.where(again, mixed, former))

    def _inside(self, boxes: Tensor) -> Tensor:
        """(R, 4) cut to the picture, with at least ``least`` pixels a side."""
        low = boxes[:, :2].clamp(0, self.image_size - self.least)
        high = boxes[:, 2:].clamp(max=self.image_size)
        return torch.cat([low, torch.maximum(high, low + self.least)], dim=1)

    def keep(self, rows: Sequence[int]) -> None:
        check_kept(rows, len(self))
        index = torch.tensor(list(rows), dtype=torch.long, device=self.box.device)
        for name in _TENSORS:
            setattr(self, name, getattr(self, name)[index])

    def tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in _TENSORS}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        if set(tensors) != set(_TENSORS):
            raise PamKitError(f"a memory of boxes has the tensors {', '.join(_TENSORS)}, not {', '.join(tensors)}")
        for name in _TENSORS:
            setattr(self, name, tensors[name].to(self.box.device))


def box_prompts(boxes: Tensor, like: PromptBatch) -> PromptBatch:
    """Boxes (n, 4) as prompts, with masks of the size of ``like``'s that are not given."""
    labels = like.labels.new_tensor([[BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]]).expand(len(boxes), -1)
    masks = like.masks.new_zeros(len(boxes), *like.masks.shape[1:])
    return PromptBatch(boxes.reshape(-1, 2, 2).to(like.points), labels, masks, like.has_mask.new_zeros(len(boxes)))


def in_sight(regions: RegionFeatures) -> Tensor:
    """(R,) bool: the object score is positive and the mask is not empty."""
    return (regions.object_score > 0) & (regions.mask_logits > 0).flatten(1).any(1)


def prompt_boxes(prompts: PromptBatch, image_size: int) -> Tensor:
    """(R, 4): around all that each prompt of at least one column points at: boxes, positive points and masks."""
    outside = (prompts.labels < POSITIVE_POINT)[..., None]
    drawn = mask_boxes(prompts.masks > 0.5, image_size)
    far, has_mask = float("inf"), prompts.has_mask[:, None]
    low = torch.minimum(prompts.points.masked_fill(outside, far).amin(1), drawn[:, :2].where(has_mask, far))
    high = torch.maximum(prompts.points.masked_fill(outside, -far).amax(1), drawn[:, 2:].where(has_mask, -far))
    return torch.cat([low, high], dim=1)


def _moved(before: Tensor, after: Tensor) -> Tensor:
    """Boxes (R, 4) -> (R, 2): how far both of their edges went; 0 where one stood still or went the other way.

    Edges that waver from frame to frame, as those of predicted masks do, then do not carry the box away.
    """
    low, high = (after - before)[:, :2], (after - before)[:, 2:]
    nearer = torch.where(low.abs() < high.abs(), low, high)
    return torch.where(low * high > 0, nearer, 0.0)
