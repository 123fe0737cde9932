"""Pictures of an evaluation: some examples of every task, with what was said and what should have been."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from pam_kit.contracts import RegionSample
from pam_kit.inference.overlay import draw_contact_sheet, draw_task_example
from pam_kit.inference.result import RegionPrediction

_COLUMNS = 4


class Gallery:
    """Collects the first region of each picture that has a text of the task, up to ``size`` examples a task."""

    def __init__(self, tasks: Sequence[str], size: int):
        self.tasks, self.size = tasks, size
        self.tiles: dict[str, list[Image.Image]] = defaultdict(list)

    def add_picture(self, sample: RegionSample, predictions: Sequence[RegionPrediction]) -> None:
        """The regions of one picture and what was predicted for each, in the same order."""
        for task in self.tasks:
            chosen = next((i for i, region in enumerate(sample.regions) if task in region.texts), None)
            if chosen is None or len(self.tiles[task]) >= self.size:
                continue
            region = sample.regions[chosen]
            tile = draw_task_example(sample.image, region.mask, predictions[chosen], task, region.texts[task])
            self.tiles[task].append(tile)

    def save(self, folder: Path, name: str) -> None:
        """Write ``folder/<name>-<task>.png`` for every task that has an example."""
        folder.mkdir(parents=True, exist_ok=True)
        for task, tiles in self.tiles.items():
            if not tiles:
                continue
            draw_contact_sheet(tiles, _COLUMNS).save(folder / f"{name}-{task}.png")
