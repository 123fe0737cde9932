"""The micro dataset: drawn scenes of look-alike objects with exact masks and bilingual texts, made on the fly."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from pam_kit.contracts import Region, RegionSample
from pam_kit.data.micro.backgrounds import make_background, photo_paths
from pam_kit.data.micro.language import (
    COLOUR_WORDS_ZH,
    KIND_WORDS,
    POSITIONS,
    Facts,
    all_texts,
    find_attribute,
    region_texts,
)
from pam_kit.data.micro.scene import OCCLUDED_BELOW, Scene, SceneObject, make_scene
from pam_kit.errors import PamKitError
from pam_kit.registry import register

# Objects a scene, where the caller does not say: least and most.
_DEFAULT_OBJECTS = {"standard": (3, 6), "lookalike": (6, 8)}


@register("dataset", "micro")
class MicroDataset:
    """Scene ``i`` depends on ``seed`` and ``i`` alone: not on the process, the order of access or ``num_samples``.

    Each sample is a RegionSample of one picture; its regions are all objects of the scene, with the visible pixels as
    mask, texts for every task in English and Chinese, and the facts behind the texts as attributes: label, label_zh,
    colour, colour_zh, texture, size, position, relation, neighbour ("blue ring") and occluded.

    Args:
        num_samples: how many scenes the dataset has.
        seed: scenes of different seeds are unrelated; use another one for a held-out set.
        image_size: side of the square pictures, in pixels, 64 to 512.
        split: "standard", or "lookalike": every object shares its kind with one other object of another colour, and
            its colour with one of another kind, so that only the prompt tells which is meant.
        backgrounds: "procedural" (drawn), "photo" (crops of the photographs in scikit-image and scikit-learn) or
            "mixed".
        min_objects: fewest objects a scene; by default 3, and 6 in "lookalike", which shows even numbers only.
        max_objects: most objects a scene; by default 6, and 8 in "lookalike".

    Raises:
        PamKitError: for an argument out of range.
        MissingPackageError: for photographs whose package is not installed.
    """

    def __init__(
        self,
        num_samples: int = 10000,
        seed: int = 0,
        image_size: int = 128,
        split: Literal["standard", "lookalike"] = "standard",
        backgrounds: Literal["procedural", "photo", "mixed"] = "procedural",
        min_objects: int | None = None,
        max_objects: int | None = None,
    ):
        if split not in _DEFAULT_OBJECTS:
            raise PamKitError(f"split {split!r} of the micro dataset is unknown; choose standard or lookalike")
        fewest, most = _DEFAULT_OBJECTS[split]
        self.num_samples, self.seed, self.image_size, self.split = num_samples, seed, image_size, split
        self.backgrounds = backgrounds
        self.min_objects = fewest if min_objects is None else min_objects
        self.max_objects = max(most, self.min_objects) if max_objects is None else max_objects
        self._check()

    def _check(self) -> None:
        low, high = self.min_objects, self.max_objects
        fewest = 4 if self.split == "lookalike" else 2
        problems = []
        if self.num_samples < 1:
            problems.append(f"num_samples is {self.num_samples}; expected 1 or more")
        if self.seed < 0:
            problems.append(f"seed is {self.seed}; expected 0 or more")
        if not 64 <= self.image_size <= 512:
            problems.append(f"image_size is {self.image_size}; expected 64 to 512")
        if self.backgrounds not in ("procedural", "photo", "mixed"):
            problems.append(f"backgrounds is {self.backgrounds!r}; choose procedural, photo or mixed")
        if not fewest <= low <= high <= 10:
            problems.append(
                f"objects a scene are {low} to {high}; expected {fewest} <= min_objects <= max_objects <= 10"
            )
        elif self.split == "lookalike" and low == high and low % 2 == 1:
            problems.append(f"split lookalike cannot show {low} objects a scene; give an even number")
        if problems:
            raise PamKitError("micro dataset: " + "; ".join(problems))
        if self.backgrounds != "procedural":
            photo_paths()

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> RegionSample:
        if not 0 <= index < self.num_samples:
            raise IndexError(f"scene {index} of a micro dataset of {self.num_samples}")
        scene_seed, background_seed = np.random.SeedSequence([self.seed, int(index)]).spawn(2)
        scene_rng, background_rng = np.random.default_rng(scene_seed), np.random.default_rng(background_seed)
        scene = make_scene(scene_rng, self.image_size, self.split, self.min_objects, self.max_objects)
        image = scene.draw(make_background(background_rng, self.image_size, self.backgrounds))
        return RegionSample(f"micro {self.split} seed {self.seed}:{index}", image, _regions(scene))

    def texts(self) -> Iterator[str]:
        """Texts that hold every word of both languages, without drawing anything; the same for every seed."""
        return all_texts()

    def read_attribute(self, text: str, attribute: str, language: str) -> str | None:
        """What a label, caption or description says of an attribute; None where it says nothing."""
        return find_attribute(text, attribute, language)


def _regions(scene: Scene) -> list[Region]:
    return [_region(scene, number) for number in range(len(scene.objects))]


def _region(scene: Scene, number: int) -> Region:
    facts = _facts(scene, number)
    attributes = {name: value for name, value in vars(facts).items() if not name.startswith("neighbour")}
    attributes |= {
        "label_zh": KIND_WORDS[facts.label].zh,
        "colour_zh": COLOUR_WORDS_ZH[facts.colour],
        "neighbour": f"{facts.neighbour_colour} {facts.neighbour_label}",
    }
    return Region(str(number), mask=scene.ids == number, texts=region_texts(facts), attributes=attributes)


def _facts(scene: Scene, number: int) -> Facts:
    item, side = scene.objects[number], len(scene.ids)
    neighbour = _nearest(scene.objects, number)
    return Facts(
        label=item.kind,
        colour=item.colour,
        texture=item.texture,
        size=item.size,
        position=POSITIONS[3 * (3 * item.y // side) + 3 * item.x // side],
        relation=_relation(item, neighbour),
        neighbour_label=neighbour.kind,
        neighbour_colour=neighbour.colour,
        occluded=item.visible_share < OCCLUDED_BELOW,
    )


def _nearest(objects: list[SceneObject], number: int) -> SceneObject:
    """The object whose centre is nearest to that of object ``number``."""
    item = objects[number]
    others = [other for i, other in enumerate(objects) if i != number]
    return min(others, key=lambda other: (other.x - item.x) ** 2 + (other.y - item.y) ** 2)


def _relation(item: SceneObject, neighbour: SceneObject) -> str:
    dx, dy = item.x - neighbour.x, item.y - neighbour.y
    if abs(dx) >= abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"
