"""What is in a scene of the micro dataset, and where: identities with look-alikes, then a layout with exact masks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pam_kit.data.micro.painting import COLOURS, SIZES, TEXTURES, Raster, paint, rasterize
from pam_kit.data.micro.shapes import KINDS
from pam_kit.errors import PamKitError

Split = Literal["standard", "lookalike"]

# An object keeps at least this share of its area, and this share of the image's pixels, in view.
MIN_VISIBLE_SHARE, MIN_VISIBLE_AREA = 0.55, 0.0025
# Below this share in view an object counts as partly hidden.
OCCLUDED_BELOW = 0.95
_MAX_ROTATION = np.deg2rad(15)
_SIZE_JITTER = 0.05
# Share of scenes in which an object gets each kind of look-alike; share of objects that cover others at their ease, the
# rest only where the picture is too full.
_LOOKALIKE_RATE, _OVERLAP_RATE = 0.85, 0.35
_ATTEMPTS = 24


@dataclass(frozen=True)
class SceneObject:
    """One object. ``x``, ``y``: its centre, in whole pixels; ``diameter`` in pixels; angles in radians.

    ``visible_share`` is the share of its area that later objects leave in view.
    """

    kind: str
    colour: str
    texture: str
    size: str
    rotation: float
    light: float
    diameter: float = 0.0
    x: int = 0
    y: int = 0
    visible_share: float = 1.0


@dataclass(frozen=True)
class Scene:
    """Objects from back to front, and ``ids`` (S, S) int16: which of them each pixel shows, -1 for the background."""

    objects: list[SceneObject]
    ids: np.ndarray
    rasters: list[Raster]

    def draw(self, background: np.ndarray) -> np.ndarray:
        """The picture, (S, S, 3) uint8, over ``background`` (3, S, S) float32."""
        canvas, side = np.array(background, np.float32, order="C"), len(self.ids)
        for item, raster in zip(self.objects, self.rasters, strict=True):
            paint(canvas[:, *_window(item.x, item.y, raster)], raster, item.colour, item.texture, item.light, side)
        pixels = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def make_scene(rng: np.random.Generator, side: int, split: Split, min_objects: int, max_objects: int) -> Scene:
    """Draw objects and place them. The same generator state gives the same scene.

    Raises:
        PamKitError: the picture has no room for so many objects.
    """
    for _ in range(100):
        if split == "standard":
            looks = standard_looks(rng, int(rng.integers(min_objects, max_objects + 1)))
        else:
            looks = _lookalike_looks(rng, int(rng.integers((min_objects + 1) // 2, max_objects // 2 + 1)))
        rng.shuffle(looks)
        scene = _place(rng, [dress(rng, kind, colour) for kind, colour in looks], side)
        if scene is not None:
            return scene
    raise PamKitError(f"micro dataset: no room for {max_objects} objects in 100 tries; lower max_objects")


def standard_looks(rng: np.random.Generator, count: int) -> list[list[str]]:
    """Kind and colour of ``count`` objects, no two the same; in most scenes some share a kind, some a colour."""
    kind, colour = pick(rng, KINDS), pick(rng, COLOURS)
    looks = [[kind, colour]]
    if count > 1 and rng.random() < _LOOKALIKE_RATE:
        looks.append([kind, pick(rng, [c for c in COLOURS if c != colour])])
    if count > 2 and rng.random() < _LOOKALIKE_RATE:
        looks.append([pick(rng, [k for k in KINDS if k != kind]), colour])
    while len(looks) < count:
        look = [pick(rng, KINDS), pick(rng, COLOURS)]
        if look not in looks:
            looks.append(look)
    return looks


def _lookalike_looks(rng: np.random.Generator, groups: int) -> list[list[str]]:
    """A cycle in which every object shares its kind with one neighbour and its colour with the other.

    ``groups`` kinds and as many colours appear twice each, so that the best guess without a prompt names the kind
    right once in ``groups`` times, kind and colour both half as often.
    """
    kinds = [str(k) for k in rng.choice(KINDS, groups, replace=False)]
    colours = [str(c) for c in rng.choice(COLOURS, groups, replace=False)]
    return [[kinds[i], colours[(i + step) % groups]] for i in range(groups) for step in (0, 1)]


def pick(rng: np.random.Generator, values: Sequence[str]) -> str:
    """One of ``values``, each as likely as the others."""
    return values[int(rng.integers(len(values)))]


def dress(rng: np.random.Generator, kind: str, colour: str) -> SceneObject:
    """An object of that look with a pattern, size, slant and light of its own; it has no place yet."""
    return SceneObject(
        kind=kind,
        colour=colour,
        texture=pick(rng, TEXTURES),
        size=pick(rng, tuple(SIZES)),
        rotation=float(rng.uniform(-_MAX_ROTATION, _MAX_ROTATION)),
        light=float(rng.uniform(-np.pi, np.pi)),
    )


def _window(x: int, y: int, raster: Raster) -> tuple[slice, slice]:
    reach = raster.reach
    return slice(y - reach, y + reach + 1), slice(x - reach, x + reach + 1)


def _place(rng: np.random.Generator, objects: list[SceneObject], side: int) -> Scene | None:
    """Put the objects into the picture one over the other; None where one of them finds no room even when small."""
    ids: np.ndarray = np.full((side, side), -1, dtype=np.int16)
    placed: list[SceneObject] = []
    rasters: list[Raster] = []
    areas: list[int] = []
    for wanted in objects:
        found = _find_room(rng, wanted, ids, np.asarray(areas, dtype=np.int64))
        if found is None:
            return None
        item, raster = found
        ids[_window(item.x, item.y, raster)][raster.inside] = len(placed)
        placed.append(item)
        rasters.append(raster)
        areas.append(int(raster.inside.sum()))
    visible = np.bincount(ids.ravel() + 1, minlength=len(placed) + 1)[1:]
    shares = [float(v / a) for v, a in zip(visible, areas, strict=True)]
    return Scene([replace(o, visible_share=s) for o, s in zip(placed, shares, strict=True)], ids, rasters)


def _find_room(
    rng: np.random.Generator, wanted: SceneObject, ids: np.ndarray, areas: np.ndarray
) -> tuple[SceneObject, Raster] | None:
    """A place where the object leaves enough of all others in view, if need be at a smaller size."""
    side, sizes = len(ids), tuple(SIZES)
    visible = np.bincount(ids.ravel() + 1, minlength=len(areas) + 1)[1:]
    needed = np.maximum(MIN_VISIBLE_SHARE * areas, MIN_VISIBLE_AREA * side * side)
    smaller = sizes[sizes.index(wanted.size) :: -1]
    clear_first = [(size, True) for size in smaller] if rng.random() > _OVERLAP_RATE else []
    for size, clear in [*clear_first, *((size, False) for size in smaller)]:
        diameter = float(SIZES[size] * side * rng.uniform(1 - _SIZE_JITTER, 1 + _SIZE_JITTER))
        raster = rasterize(wanted.kind, diameter, wanted.rotation)
        inside = raster.inside
        for x, y in rng.integers(raster.reach, side - raster.reach, (_ATTEMPTS, 2)).tolist():
            covered = np.bincount(ids[_window(x, y, raster)][inside] + 1, minlength=len(areas) + 1)[1:]
            if not covered.any() or (not clear and (visible - covered >= needed).all()):
                return replace(wanted, size=size, diameter=diameter, x=x, y=y), raster
    return None
