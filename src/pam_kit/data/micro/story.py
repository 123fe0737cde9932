"""What an object of a moving scene does, one event after the other, and where it is while it does it.

Lengths and places are shares of the picture's side, so that a story is the same at every size. An object rests near
one of the four corners; between two rests it crosses the picture, changes, or goes out of sight. What has gone out of
sight comes back before it does anything else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pam_kit.data.micro.video_language import DIRECTIONS, EventFacts

# Where objects rest on each axis. From one band to the other is more than a third of the picture.
_LOW, _HIGH = (0.21, 0.3), (0.7, 0.79)
# Diameter of an object before it grows or after it has shrunk, and the factor between the two.
SMALL_DIAMETER, GROWTH = (0.19, 0.215), (1.75, 1.9)
# How far an object moves between two frames at most, in diameters.
MAX_STRIDE = 0.58
_SPIN = np.pi
# Kinds whose turning is not seen.
_ROUND = ("ball", "ring")
# How often each event is chosen where it can be. The weights make up for that: only what is small hides, only what is
# small grows and only what is large shrinks, and nothing changes its colour before it was seen in another one.
_WEIGHTS = {"moves": 1.0, "spins": 1.15, "stays": 0.95, "turns": 1.6}
_SIZE_WEIGHT, _AWAY_SMALL, _AWAY_LARGE = 2.0, {"hides": 1.45, "leaves": 0.3}, {"leaves": 1.4}


@dataclass(frozen=True)
class Pose:
    """Where an object is and how it looks: centre and diameter in shares of the side, rotation in radians."""

    x: float
    y: float
    diameter: float
    rotation: float
    colour: str


@dataclass(frozen=True)
class Cover:
    """What objects hide behind: its look ("green box"), its centre, and how far up and down from it is room."""

    look: str
    x: float
    y: float
    room: float


@dataclass(frozen=True)
class Act:
    """One event of one object: from the pose at the end of the event before to the pose at its own end.

    ``behind``: whether the object passes behind the cover meanwhile, and not in front of it. ``away``: whether it is
    out of sight at the end.
    """

    facts: EventFacts
    start: Pose
    end: Pose
    behind: bool = False
    away: bool = False

    def pose(self, step: int, steps: int) -> Pose:
        """The pose in frame ``step``, 1 to ``steps``. The colour is the last one from the first frame on."""
        pause = steps // 6
        share = step / steps
        if self.away:
            share = min(1.0, step / (steps - pause))
        elif self.facts.event == "returns":
            share = max(0.0, (step - pause) / (steps - pause))
        x, y, diameter, rotation = (
            (1 - share) * getattr(self.start, name) + share * getattr(self.end, name)
            for name in ("x", "y", "diameter", "rotation")
        )
        return Pose(x, y, diameter, rotation, self.end.colour)


def plan_events(rng: np.random.Generator, count: int, large: bool, kind: str) -> list[str]:
    """Which ``count`` events an object of that ``kind`` goes through in turn; ``large``: as it is in the beginning."""
    events: list[str] = []
    while len(events) < count:
        if events and events[-1] in ("hides", "leaves"):
            events.append("returns")
            continue
        weights = _WEIGHTS | (_AWAY_LARGE if large else _AWAY_SMALL)
        weights["shrinks" if large else "grows"] = _SIZE_WEIGHT
        if not events:
            del weights["turns"]
        if kind in _ROUND:
            del weights["spins"]
        shares = np.asarray(list(weights.values()))
        events.append(list(weights)[int(rng.choice(len(shares), p=shares / shares.sum()))])
        large = large != (events[-1] in ("grows", "shrinks"))
    return events


def play(
    rng: np.random.Generator,
    events: Sequence[str],
    label: str,
    first: Pose,
    growth: float,
    colours: Sequence[str],
    cover: Cover | None,
    steps: int,
) -> list[Act]:
    """Act out the planned ``events`` from the pose ``first`` on.

    Args:
        growth: the factor by which the object grows and shrinks.
        colours: those it may change to.
        cover: what it hides behind; needed where it "hides".
        steps: frames an event.
    """
    acts: list[Act] = []
    pose = first
    for event in events:
        facts, end = EventFacts(event, label, pose.colour), pose
        if event == "moves":
            direction, end = _crossed(rng, pose, steps)
            facts = replace(facts, direction=direction)
        elif event in ("grows", "shrinks"):
            end = replace(pose, diameter=pose.diameter * (growth if event == "grows" else 1 / growth))
        elif event == "spins":
            end = replace(pose, rotation=pose.rotation + float(rng.choice([-_SPIN, _SPIN])))
        elif event == "turns":
            others = [colour for colour in colours if colour != pose.colour]
            end = replace(pose, colour=others[int(rng.integers(len(others)))])
            facts = replace(facts, colour=end.colour, old_colour=pose.colour)
        elif event == "hides" and cover is not None:
            end = replace(pose, x=cover.x, y=float(np.clip(pose.y, cover.y - cover.room, cover.y + cover.room)))
            facts = replace(facts, behind=cover.look)
        elif event == "leaves":
            end = _outside(rng, pose)
        elif event == "returns":
            end = _back(rng, pose)
        covered = event == "hides" or (event == "returns" and acts[-1].behind)
        acts.append(Act(facts, pose, end, covered, event in ("hides", "leaves")))
        pose = end
    return acts


def rest_pose(rng: np.random.Generator, diameter: float, rotation: float, colour: str) -> Pose:
    """A place near one of the corners."""
    x, y = (_band(rng, bool(rng.integers(2))) for _ in range(2))
    return Pose(x, y, diameter, rotation, colour)


def _band(rng: np.random.Generator, high: bool) -> float:
    return float(rng.uniform(*(_HIGH if high else _LOW)))


def _crossed(rng: np.random.Generator, pose: Pose, steps: int) -> tuple[str, Pose]:
    """To the other band of one axis, no faster than can be followed."""
    axis = ("x", "y")[int(rng.integers(2))]
    here = getattr(pose, axis)
    there = _band(rng, here < 0.5)
    longest = MAX_STRIDE * pose.diameter * steps
    there = here + float(np.clip(there - here, -longest, longest))
    sign = 1 if there > here else -1
    direction = next(d for d, delta in DIRECTIONS.items() if delta == ((sign, 0) if axis == "x" else (0, sign)))
    return direction, replace(pose, **{axis: there})


def _outside(rng: np.random.Generator, pose: Pose) -> Pose:
    """Just beyond one of the two nearest edges."""
    axis = ("x", "y")[int(rng.integers(2))]
    beyond = pose.diameter / 2 + 0.02
    return replace(pose, **{axis: -beyond if getattr(pose, axis) < 0.5 else 1 + beyond})


def _back(rng: np.random.Generator, pose: Pose) -> Pose:
    """To a rest beside the edge that was left over; from behind a cover to any side."""
    places = {}
    for axis in ("x", "y"):
        here = getattr(pose, axis)
        if 0 < here < 1 and (0 < pose.x < 1) != (0 < pose.y < 1):
            continue  # it left over the other edge
        inside = 0 < here < 1
        places[axis] = _band(rng, bool(rng.integers(2)) if inside else here > 1)
    return replace(pose, **places)
