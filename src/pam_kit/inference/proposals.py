"""Where regions may be: a grid of points over the picture and its crops, or what a file proposes.

Grid and crops are those of SAM's automatic masks (arXiv 2304.02643, Appendix B, "Cropping" and "Filtering").
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pam_kit.contracts import POSITIVE_POINT, RegionPrompt
from pam_kit.errors import PamKitError

# Where the points of a grid come from, as it is told.
GRID = "grid"


@dataclass(frozen=True)
class Window:
    """A part of a picture, in whole pixels: from (left, top) to before (right, bottom)."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top


@dataclass(frozen=True)
class Proposal:
    """A place where a region may be.

    Args:
        prompt: in pixels of its window.
        window: number of the window that is looked at; 0 is the whole picture.
        several: it may mean several things, a part or a whole, each of which may be a region: a point of a grid.
        score: how sure whoever proposes it is, in [0, 1]; None where that is not said.
        source: where it comes from, as it is told: ``grid``, or place in a file.
        label: what it is called there.
    """

    prompt: RegionPrompt
    window: int = 0
    several: bool = False
    score: float | None = None
    source: str = GRID
    label: str | None = None

    def facts(self) -> dict[str, Any]:
        """What stands in results, besides the prompt."""
        told = {"source": self.source, "window": self.window or None, "score": self.score, "label": self.label}
        return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True)
class GridSettings:
    """A grid of points.

    Args:
        points: along each side of the picture, and of each crop before ``crop_downscale``.
        crop_layers: layer i looks at 2^i x 2^i overlapping crops of the picture besides.
        crop_overlap: of the crops of the first layer, in shares of the picture's shorter side; SAM's 512/1500.
        crop_downscale: layer i has so many times fewer points a side, to the power of i.
        several: each point may mean a part, a whole or a group, as SAM has it; else the mask that the model tells of.
    """

    points: int = 32
    crop_layers: int = 0
    crop_overlap: float = 512 / 1500
    crop_downscale: int = 1
    several: bool = True

    def __post_init__(self):
        if self.points < 1 or self.crop_downscale < 1 or not 0 <= self.crop_layers <= 4:
            raise PamKitError(
                "a grid has at least 1 point a side, 0 to 4 layers of crops, and points that become fewer by a factor "
                f"of 1 or more; not {self.points}, {self.crop_layers}, {self.crop_downscale}"
            )
        if not 0 <= self.crop_overlap < 1:
            raise PamKitError(f"crops overlap by a share from 0 to below 1, not {self.crop_overlap}")

    def points_of_layer(self, layer: int) -> int:
        """Along each side."""
        return max(1, self.points // self.crop_downscale**layer)


def grid_windows(width: int, height: int, settings: GridSettings) -> list[tuple[Window, int]]:
    """The picture and its crops, each with its layer; the picture is layer 0."""
    found = [(Window(0, 0, width, height), 0)]
    for layer in range(1, settings.crop_layers + 1):
        count = 2**layer
        overlap = int(settings.crop_overlap * min(width, height) * 2 / count)
        wide, high = (math.ceil((overlap * (count - 1) + side) / count) for side in (width, height))
        if (wide - overlap) * (count - 1) >= width or (high - overlap) * (count - 1) >= height:
            break  # the picture is too small to be cut so often
        for column in range(count):
            for row in range(count):
                left, top = (wide - overlap) * column, (high - overlap) * row
                window = Window(left, top, min(left + wide, width), min(top + high, height))
                found.append((window, layer))
    return found


def grid_proposals(windows: Sequence[tuple[Window, int]], settings: GridSettings) -> list[Proposal]:
    """One point after the other, row by row, in every window."""
    return [
        Proposal(RegionPrompt(points=((x, y),), labels=(POSITIVE_POINT,)), number, settings.several)
        for number, (window, layer) in enumerate(windows)
        for x, y in _spread(window, settings.points_of_layer(layer))
    ]


def _spread(window: Window, points: int) -> list[tuple[float, float]]:
    places = [(number + 0.5) / points for number in range(points)]
    return [(x * window.width, y * window.height) for y in places for x in places]
