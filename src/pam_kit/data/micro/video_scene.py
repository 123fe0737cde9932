"""A moving scene of the micro dataset: who is in it, what it does, and every frame of it with exact masks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pam_kit.data.micro.painting import COLOURS, Raster, paint, rasterize
from pam_kit.data.micro.scene import SceneObject, dress, pick, standard_looks
from pam_kit.data.micro.story import GROWTH, SMALL_DIAMETER, Act, Cover, Pose, Role, plan_events, play, rest_pose
from pam_kit.data.micro.video_language import COVERS

# Around the picture, as a share of its side: room for what is just outside.
_MARGIN = 0.47
# A box to hide behind stands upright. Its diameter, and how far up and down an object behind it may be.
_COVER_SIZES = {"box": (0.6, 0.13), "ball": (0.35, 0.01)}
# How often there is something to hide behind where nothing hides, and a second object that moves.
_COVER_RATE, _SECOND_RATE = 0.4, 0.5
_BYSTANDER_DIAMETER = (0.15, 0.21)
# How far objects at rest may reach into each other, as a share of the smaller one's radius.
_OVERLAP = 0.3
_ATTEMPTS = 40


@dataclass(frozen=True)
class Actor:
    """An object that moves: how it looks where its pose does not say, and its events in turn."""

    look: SceneObject
    acts: list[Act]


@dataclass(frozen=True)
class Placed:
    """An object in a frame: its centre in whole pixels of the picture, its silhouette and its colour."""

    look: SceneObject
    x: int
    y: int
    raster: Raster
    colour: str


class MovingScene:
    """Frames and masks of a few objects that move in front of others that do not. Frames can be drawn in any order.

    Args:
        actors: those that move, from back to front.
        bystanders: those that do not; the actors pass in front of them.
        cover: what actors hide behind; None where there is nothing.
        steps: frames an event.
        background: (3, S, S) float32.
    """

    def __init__(
        self,
        actors: Sequence[Actor],
        bystanders: Sequence[SceneObject],
        cover: SceneObject | None,
        steps: int,
        background: np.ndarray,
    ):
        self.actors, self.steps, self.side = actors, steps, background.shape[1]
        self.bystanders, self.cover = bystanders, cover
        self._margin = int(np.ceil(_MARGIN * self.side)) + 4
        canvas = np.zeros((3, *(2 * [self.side + 2 * self._margin])), np.float32)
        self._inner(canvas)[...] = background
        for item in bystanders:
            self._paint(canvas, _still(item))
        self._placed_cover = _still(cover) if cover is not None else None
        # Most often nothing is behind the cover, so that it can be drawn beforehand too.
        self._without_cover, self._with_cover = canvas, canvas.copy()
        if self._placed_cover is not None:
            self._paint(self._with_cover, self._placed_cover)

    @property
    def num_frames(self) -> int:
        return self.steps * len(self.actors[0].acts)

    def draw(self, frame: int) -> np.ndarray:
        """The picture, (S, S, 3) uint8."""
        behind, front = self._layers(frame)
        canvas = (self._without_cover if behind else self._with_cover).copy()
        for _, placed in behind:
            self._paint(canvas, placed)
        if behind and self._placed_cover is not None:
            self._paint(canvas, self._placed_cover)
        for _, placed in front:
            self._paint(canvas, placed)
        pixels = np.clip(np.rint(self._inner(canvas)), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))

    def ids(self, frame: int) -> np.ndarray:
        """(S, S) int16: which of the actors each pixel shows, -1 for everything else."""
        ids: np.ndarray = np.full(2 * [self.side + 2 * self._margin], -1, np.int16)
        behind, front = self._layers(frame)
        cover = [] if self._placed_cover is None else [(-1, self._placed_cover)]
        for number, placed in (*behind, *cover, *front):
            ids[self._window(placed)][placed.raster.inside] = number
        return np.ascontiguousarray(self._inner(ids))

    def mask(self, frame: int, actor: int) -> np.ndarray:
        """(S, S) bool: the pixels that show the actor."""
        return self.ids(frame) == actor

    def in_sight(self, frame: int, actor: int, share: float = 0.4) -> bool:
        """Whether at least ``share`` of the actor's own area can be seen."""
        whole = self._placed(self.actors[actor], frame).raster.inside.sum()
        return bool(self.mask(frame, actor).sum() >= share * whole)

    def _layers(self, frame: int) -> tuple[list[tuple[int, Placed]], list[tuple[int, Placed]]]:
        """Actors behind the cover, and those in front of it, each with its number, from back to front."""
        layers: tuple[list[tuple[int, Placed]], list[tuple[int, Placed]]] = ([], [])
        for number, actor in enumerate(self.actors):
            behind = actor.acts[frame // self.steps].behind
            layers[0 if behind else 1].append((number, self._placed(actor, frame)))
        return layers

    def _placed(self, actor: Actor, frame: int) -> Placed:
        pose = actor.acts[frame // self.steps].pose(frame % self.steps + 1, self.steps)
        raster = rasterize(actor.look.kind, pose.diameter * self.side, pose.rotation)
        return Placed(actor.look, round(pose.x * self.side), round(pose.y * self.side), raster, pose.colour)

    def _window(self, placed: Placed) -> tuple[slice, slice]:
        left, top = (self._margin + centre - placed.raster.reach for centre in (placed.x, placed.y))
        extent = 2 * placed.raster.reach + 1
        return slice(top, top + extent), slice(left, left + extent)

    def _paint(self, canvas: np.ndarray, placed: Placed) -> None:
        look = placed.look
        paint(canvas[:, *self._window(placed)], placed.raster, placed.colour, look.texture, look.light, self.side)

    def _inner(self, canvas: np.ndarray) -> np.ndarray:
        """The picture, without the margin around it."""
        inside = slice(self._margin, self._margin + self.side)
        return canvas[..., inside, inside]


def _still(item: SceneObject) -> Placed:
    return Placed(item, item.x, item.y, rasterize(item.kind, item.diameter, item.rotation), item.colour)


def make_moving_scene(
    rng: np.random.Generator, background: np.ndarray, events: int, steps: int, min_objects: int, max_objects: int
) -> MovingScene:
    """Draw objects with look-alikes, and what one or two of them do. The same generator state gives the same scene.

    Args:
        background: (3, S, S) float32.
        events: of each actor, one after the other.
        steps: frames an event.
        min_objects: fewest objects; where the picture is too full for one that stands still, it is left out.
        max_objects: most objects; what there is to hide behind comes on top.
    """
    side = background.shape[1]
    looks = standard_looks(rng, int(rng.integers(min_objects, max_objects + 1)))
    plans = []
    for kind, _ in looks[: 2 if rng.random() < _SECOND_RATE else 1]:
        large = bool(rng.integers(2))
        plans.append((large, plan_events(rng, events, large, kind)))
    needed = any("hides" in plan for _, plan in plans)
    cover = _make_cover(rng, looks, side) if needed or rng.random() < _COVER_RATE else None
    hiding = _hiding_place(cover, side) if cover is not None else None
    actors: list[Actor] = []
    for (kind, colour), (large, plan) in zip(looks, plans, strict=False):
        colours = _free_colours(kind, looks, actors)
        # In a long video the first object may wear every colour, so that none is left for another of its kind.
        if len(colours) > 1:
            actors += _cast(rng, dress(rng, kind, colour), large, plan, colours, hiding, steps, actors)
    bystanders = _place_bystanders(rng, looks[len(actors) :], actors, cover, steps, side)
    return MovingScene(actors[:: 1 if rng.integers(2) else -1], bystanders, cover, steps, background)


def _make_cover(rng: np.random.Generator, looks: list[list[str]], side: int) -> SceneObject:
    """Something to hide behind in the middle of the picture, which looks like none of the objects."""
    kind = pick(rng, COVERS)
    item = dress(rng, kind, pick(rng, [colour for colour in COLOURS if [kind, colour] not in looks]))
    upright = item.rotation / 5 + (np.pi / 2 if kind == "box" else 0)
    y = rng.uniform(0.45, 0.55)
    diameter = _COVER_SIZES[kind][0] * side
    return replace(item, size="large", rotation=upright, diameter=diameter, x=round(0.5 * side), y=round(y * side))


def _hiding_place(cover: SceneObject, side: int) -> Cover:
    return Cover(f"{cover.colour} {cover.kind}", cover.x / side, cover.y / side, _COVER_SIZES[cover.kind][1])


def _cast(
    rng: np.random.Generator,
    look: SceneObject,
    large: bool,
    plan: list[str],
    colours: list[str],
    cover: Cover | None,
    steps: int,
    others: list[Actor],
) -> list[Actor]:
    """The object with its events acted out so that it rests clear of the ``others``; none where that cannot be."""
    role = Role(look.kind, float(rng.uniform(*GROWTH)), colours, cover)
    diameter = float(rng.uniform(*SMALL_DIAMETER)) * (role.growth if large else 1)
    for _ in range(_ATTEMPTS):
        acts = play(rng, plan, rest_pose(rng, diameter, look.rotation, look.colour), role, steps)
        if all(_clear(_rests(acts, steps), _rests(other.acts, steps)) for other in others):
            return [Actor(look, acts)]
    return []


def _free_colours(kind: str, looks: list[list[str]], others: list[Actor]) -> list[str]:
    """Colours in which an object of that kind looks like no other one at any time."""
    worn = looks + [[other.look.kind, act.end.colour] for other in others for act in other.acts]
    return [colour for colour in COLOURS if [kind, colour] not in worn]


def _rests(acts: Sequence[Act], steps: int) -> list[Pose | None]:
    """The poses in the first frame and at the end of each event; None where it is out of sight."""
    return [acts[0].pose(1, steps), *(None if act.away else act.end for act in acts)]


def _clear(ones: Sequence[Pose | None], others: Sequence[Pose | None]) -> bool:
    pairs = [(one, other) for one, other in zip(ones, others, strict=True) if one is not None and other is not None]
    return all(_gap(one.x - other.x, one.y - other.y, one.diameter, other.diameter) > -_OVERLAP for one, other in pairs)


def _gap(dx: float, dy: float, diameter: float, other: float) -> float:
    """How far two objects are apart, in radii of the smaller one; negative where they reach into each other."""
    return float((np.hypot(dx, dy) - (diameter + other) / 2) / (min(diameter, other) / 2))


def _place_bystanders(
    rng: np.random.Generator,
    looks: list[list[str]],
    actors: list[Actor],
    cover: SceneObject | None,
    steps: int,
    side: int,
) -> list[SceneObject]:
    """Objects that stand still where none of the actors rests; the ones that find no such place are left out."""
    rests = [pose for actor in actors for pose in _rests(actor.acts, steps) if pose is not None]
    taken = [(pose.x, pose.y, pose.diameter) for pose in rests]
    if cover is not None:
        taken.append((cover.x / side, cover.y / side, cover.diameter / side))
    placed = []
    for kind, colour in looks:
        diameter = float(rng.uniform(*_BYSTANDER_DIAMETER))
        reach = diameter / 2 + 2 / side
        spots = rng.uniform(reach, 1 - reach, (_ATTEMPTS, 2))
        gaps = [min(_gap(x - tx, y - ty, diameter, other) for tx, ty, other in taken) for x, y in spots]
        best = int(np.argmax(gaps))
        x, y = (float(v) for v in spots[best])
        if gaps[best] > -_OVERLAP:
            taken.append((x, y, diameter))
            look = replace(dress(rng, kind, colour), size="small", diameter=diameter * side)
            placed.append(replace(look, x=round(x * side), y=round(y * side)))
    return placed
