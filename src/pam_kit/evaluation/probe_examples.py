"""Pictures of a faithfulness probe: a region, what was taken out of its picture, and what that did to a text."""

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from pam_kit.evaluation.altered_pictures import Fill
from pam_kit.evaluation.faithfulness import VARIANTS, ProbedPicture, TextFall, variants_of
from pam_kit.inference import marks
from pam_kit.inference.layers import Sizes, pixel_box, resized_mask
from pam_kit.inference.overlay import draw_contact_sheet
from pam_kit.inference.panel import BACKGROUND, Entry, draw_panel

_SIDE, _TEXT = 320, 14
_TITLES = {"region": "region out", "surroundings": "surroundings out", "other": "largest other region out"}


class ProbeExamples:
    """Collects one text a picture, up to ``size`` of each task and source; ``fill`` is that of the probe."""

    def __init__(self, size: int, fill: Fill):
        self.size, self.fill = size, fill
        self.tiles: list[Image.Image] = []
        self._shown: Counter = Counter()

    def add(self, picture: ProbedPicture, falls: list[TextFall], areas: list[np.ndarray]) -> None:
        """The texts of one picture; ``areas`` (H, W) bool are those of its regions."""
        rows = {region.id: index for index, region in enumerate(picture.regions)}
        told = {(fall.task, fall.source): fall for fall in reversed(falls) if fall.altered}
        if told:
            kind = min(sorted(told), key=self._shown.__getitem__)
            if self._shown[kind] < self.size:
                self._shown[kind] += 1
                self._add(picture, told[kind], rows[told[kind].region], areas)

    def save(self, path: Path) -> None:
        """A row a text: the picture, then each altered one; nothing where there is no example."""
        if self.tiles:
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_contact_sheet(self.tiles, 1 + len(VARIANTS)).save(path)

    def _add(self, picture: ProbedPicture, fall: TextFall, row: int, areas: list[np.ndarray]) -> None:
        images = {one.name: one.image for one in variants_of(picture, areas, self.fill) if one.region == row}
        whole = f"{fall.task}, {fall.source}: {fall.original / fall.tokens:.2f} nats per token"
        self.tiles.append(_tile(picture.image, areas[row], whole, fall.text))
        for name in VARIANTS:
            if name in images:
                title = f"{_TITLES[name]}: {fall.altered[name] / fall.tokens:.2f}"
                self.tiles.append(_tile(images[name], areas[row], title, f"loses {fall.drop(name):.2f}"))
            else:
                self.tiles.append(Image.new("RGB", (_SIDE, _SIDE), BACKGROUND))


def _tile(image: np.ndarray, area: np.ndarray, title: str, text: str) -> Image.Image:
    scale = _SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    canvas = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    mask = resized_mask(area, size)
    if mask.any():
        marks.draw_dashed_outline(canvas, mask, pixel_box(mask), marks.BLACK, Sizes.of(canvas).thin)
    panel = draw_panel([Entry(None, title, (("", text),))], _SIDE, _TEXT)
    tile = Image.new("RGB", (_SIDE, canvas.height + panel.height), BACKGROUND)
    tile.paste(canvas, ((_SIDE - canvas.width) // 2, 0))
    tile.paste(panel, (0, canvas.height))
    return tile
