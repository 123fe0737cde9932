"""The pictures and clips of the samples: drawn scenes of the micro dataset, and words drawn on its backgrounds."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pam_kit.data.micro.backgrounds import make_background
from pam_kit.data.micro.dataset import MicroDataset
from pam_kit.data.micro.video_dataset import MicroVideos
from pam_kit.geometry import mask_box

SIDE = 96
NUM_PICTURES = 3
NUM_VIDEOS = 2
EVENT_FRAMES = 6
# No two alike; the apostrophe and the accent have to survive the files.
WORDS = ("OPEN", "EXIT", "don't", "Café", "24", "STOP")


@dataclass(frozen=True, eq=False)
class Thing:
    """An object of a picture: its (H, W) mask, label, short caption and description."""

    mask: np.ndarray
    label: str
    caption: str
    description: str

    @property
    def xywh(self) -> list[float]:
        """COCO's x, y, width, height in pixels."""
        x1, y1, x2, y2 = mask_box(self.mask)
        return [x1, y1, x2 - x1, y2 - y1]

    @property
    def xyxy(self) -> list[float]:
        return list(mask_box(self.mask))


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture of (H, W, 3) and what is in it."""

    image: np.ndarray
    things: tuple[Thing, ...]


@lru_cache(maxsize=1)
def scenes() -> tuple[Scene, ...]:
    """The pictures that all samples of pictures share."""
    dataset = MicroDataset(num_samples=NUM_PICTURES, seed=71, image_size=SIDE, min_objects=3, max_objects=3)
    found = []
    for index in range(NUM_PICTURES):
        sample = dataset[index]
        things = []
        for region in sample.regions:
            assert region.mask is not None
            said = {task: texts["en"] for task, texts in region.texts.items()}
            things.append(Thing(region.mask, said["recognize"], said["caption"], said["describe"]))
        found.append(Scene(sample.image, tuple(things)))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class Film:
    """A video of one object that is told of: frames, a mask for each, and (first, last, caption) of each event."""

    frames: list[np.ndarray]
    masks: list[np.ndarray]
    label: str
    events: list[tuple[int, int, str]]

    def xywh(self, frame: int) -> list[float]:
        """The object's box; where it is out of sight, the box of the last frame in which it was seen."""
        seen = next(number for number in range(frame, -1, -1) if self.masks[number].any())
        x1, y1, x2, y2 = mask_box(self.masks[seen])
        return [x1, y1, x2 - x1, y2 - y1]


@lru_cache(maxsize=1)
def films() -> tuple[Film, ...]:
    """The videos that all samples of videos share."""
    dataset = MicroVideos(NUM_VIDEOS, seed=72, image_size=SIDE, events_per_video=3, frames_per_event=EVENT_FRAMES)
    found = []
    for index in range(NUM_VIDEOS):
        video = dataset[index]
        region = video.regions[0]
        events = [(event.first, event.last, event.texts["caption"]["en"]) for event in region.events]
        found.append(Film(list(video.frames), list(region.masks), str(region.attributes["label"]), events))
    return tuple(found)


@dataclass(frozen=True)
class Lettering:
    """A word in a picture, and the corners of the polygon around it: xs, ys."""

    text: str
    xs: tuple[int, ...]
    ys: tuple[int, ...]

    @property
    def xywh(self) -> list[int]:
        return [min(self.xs), min(self.ys), max(self.xs) - min(self.xs), max(self.ys) - min(self.ys)]


@lru_cache(maxsize=1)
def signs() -> tuple[tuple[np.ndarray, tuple[Lettering, ...]], ...]:
    """Three pictures with two of ``WORDS`` each."""
    found = []
    for index in range(NUM_PICTURES):
        background = make_background(np.random.default_rng([73, index]), SIDE, "procedural")
        image = Image.fromarray(background.transpose(1, 2, 0).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        letterings = []
        for row, text in enumerate(WORDS[2 * index : 2 * index + 2]):
            place = (8, 10 + 44 * row)
            x1, y1, x2, y2 = (int(v) for v in draw.textbbox(place, text, font=ImageFont.load_default(20)))
            draw.rectangle((x1 - 2, y1 - 2, x2 + 2, y2 + 2), fill="white")
            draw.text(place, text, fill="black", font=ImageFont.load_default(20))
            # Six corners, the middle ones a little outside, as around curved words.
            middle = (x1 + x2) // 2
            letterings.append(Lettering(text, (x1, middle, x2, x2, middle, x1), (y1, y1 - 1, y1, y2, y2 + 1, y2)))
        found.append((np.asarray(image), tuple(letterings)))
    return tuple(found)


def write_picture(path: Path, image: np.ndarray) -> None:
    """One JPEG of (H, W, 3) uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95)


def write_json(path: Path, value: Any) -> None:
    """On one line, as published files are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def write_lines(path: Path, values: list[dict[str, Any]]) -> None:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")
