"""What an object of a moving scene does, one event after the other, and where it is while it does it.

Lengths and places are shares of the picture's side, so that a story is the same at every size. An object rests near
one of the four corners; between two rests it crosses the picture, changes, or goes out of sight. What has gone out of
sight comes back before it does anything else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pam_kit.data.micro.video_language import EventFacts

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
_SIZE_WEIGHT, _AWAY_SMALL, _AWAY_LARGE = 2.0, {"hides": 1.6, "leaves": 0.3}, {"leaves": 1.4}


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
class Role:
    """What an object brings into its story.

    ``growth`` is the factor by which it grows and shrinks; ``colours`` are those it may turn into, two or more;
    ``cover`` is what it hides behind, needed where it "hides".
    """

    label: str
    growth: float
    colours: Sequence[str]
    cover: Cover | None = None


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


def play(rng: np.random.Generator, events: Sequence[str], first: Pose, role: Role, steps: int) -> list[Act]:
    """Act out the planned ``events``, of ``steps`` frames each, from the pose ``first`` on."""
    acts: list[Act] = []
    pose = first
    for event in events:
        end, facts = _outcome(rng, event, pose, role, steps)
        covered = event == "hides" or (event == "returns" and acts[-1].behind)
        acts.append(Act(facts, pose, end, covered, event in ("hides", "leaves")))
        pose = end
    return acts


def _outcome(rng: np.random.Generator, event: str, pose: Pose, role: Role, steps: int) -> tuple[Pose, EventFacts]:
    """The pose at the end of an event that begins with ``pose``, and what is to be said about it."""
    facts = EventFacts(event, role.label, pose.colour)
    if event == "moves":
        direction, end = _crossed(rng, pose, steps)
        return end, replace(facts, direction=direction)
    if event in ("grows", "shrinks"):
        return replace(pose, diameter=pose.diameter * role.growth ** (1 if event == "grows" else -1)), facts
    if event == "spins":
        return replace(pose, rotation=pose.rotation + _SPIN * (1 if rng.integers(2) else -1)), facts
    if event == "turns":
        others = [colour for colour in role.colours if colour != pose.colour]
        new = others[int(rng.integers(len(others)))]
        return replace(pose, colour=new), replace(facts, colour=new, old_colour=pose.colour)
    if event == "hides":
        if role.cover is None:
            raise ValueError(f"the {role.label} has nothing to hide behind")
        low, high = role.cover.y - role.cover.room, role.cover.y + role.cover.room
        hidden = replace(pose, x=role.cover.x, y=min(max(pose.y, low), high))
        return hidden, replace(facts, behind=role.cover.look)
    if event == "leaves":
        return _outside(rng, pose), facts
    return (_back(rng, pose) if event == "returns" else pose), facts


def rest_pose(rng: np.random.Generator, diameter: float, rotation: float, colour: str) -> Pose:
    """A place near one of the corners."""
    x, y = (_band(rng, bool(rng.integers(2))) for _ in range(2))
    return Pose(x, y, diameter, rotation, colour)


def _band(rng: np.random.Generator, high: bool) -> float:
    return float(rng.uniform(*(_HIGH if high else _LOW)))


def _moved(pose: Pose, axis: str, there: float) -> Pose:
    return replace(pose, x=there) if axis == "x" else replace(pose, y=there)


def _crossed(rng: np.random.Generator, pose: Pose, steps: int) -> tuple[str, Pose]:
    """To the other band of one axis, no faster than can be followed."""
    axis = "xy"[int(rng.integers(2))]
    here, longest = getattr(pose, axis), MAX_STRIDE * pose.diameter * steps
    way = min(max(_band(rng, here < 0.5) - here, -longest), longest)
    directions = {"x": ("left", "right"), "y": ("up", "down")}[axis]
    return directions[way > 0], _moved(pose, axis, here + way)


def _outside(rng: np.random.Generator, pose: Pose) -> Pose:
    """Just beyond one of the two nearest edges."""
    axis = "xy"[int(rng.integers(2))]
    beyond = pose.diameter / 2 + 0.02
    return _moved(pose, axis, -beyond if getattr(pose, axis) < 0.5 else 1 + beyond)


def _back(rng: np.random.Generator, pose: Pose) -> Pose:
    """To a rest beside the edge that was left over; from behind a cover to its left or right."""
    outside = [axis for axis in "xy" if not 0 < getattr(pose, axis) < 1]
    if outside:
        return _moved(pose, outside[0], _band(rng, getattr(pose, outside[0]) > 0.5))
    return replace(pose, x=_band(rng, bool(rng.integers(2))), y=_band(rng, pose.y > 0.5))
