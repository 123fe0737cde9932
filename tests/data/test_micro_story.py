"""Stories of the moving micro scenes: consistent, continuous, and slow enough to be followed."""

from collections import Counter

import numpy as np
import pytest

from pam_kit.data.micro.painting import COLOURS
from pam_kit.data.micro.shapes import KINDS
from pam_kit.data.micro.story import Cover, Role, plan_events, play, rest_pose
from pam_kit.data.micro.video_language import EVENTS

# As far from the rests as covers are.
COVER = Cover("green ball", 0.5, 0.55, 0.01)


def plans(count, number=600, **fixed):
    for seed in range(number):
        rng = np.random.default_rng([11, seed])
        options = {"large": bool(rng.integers(2)), "kind": KINDS[int(rng.integers(len(KINDS)))]} | fixed
        yield options["large"], options["kind"], plan_events(rng, count, **options)


def stories(steps, number=200, count=6):
    for seed, (large, kind, plan) in enumerate(plans(count, number)):
        rng = np.random.default_rng([12, seed])
        diameter = 0.36 if large else 0.19
        yield play(rng, plan, rest_pose(rng, diameter, 0.1, "red"), Role(kind, 1.9, COLOURS, COVER), steps)


def test_a_plan_keeps_to_what_is_possible():
    for start, kind, plan in plans(8):
        large = start
        for number, event in enumerate(plan):
            before = plan[number - 1] if number else None
            assert (event == "returns") == (before in ("hides", "leaves"))
            assert event != "turns" or number
            assert event != "spins" or kind not in ("ball", "ring")
            assert event != "grows" or not large
            assert event != "shrinks" or large
            assert event != "hides" or not large
            large = {"grows": True, "shrinks": False}.get(event, large)


@pytest.mark.parametrize("count", [3, 4, 8])
def test_events_are_balanced(count):
    counts = Counter(event for _, _, plan in plans(count, 1500) for event in plan)
    shares = {event: counts[event] / counts.total() for event in EVENTS}
    assert sum(shares.values()) == pytest.approx(1)
    assert 0.06 < min(shares.values()) and max(shares.values()) < 0.17


@pytest.mark.parametrize("steps", [4, 6, 16])
def test_every_event_begins_where_the_one_before_ended(steps):
    for acts in stories(steps):
        for before, act in zip(acts[:-1], acts[1:], strict=True):
            assert act.start == before.end == before.pose(steps, steps)
        for act in acts:
            poses = [act.start, *(act.pose(step, steps) for step in range(1, steps + 1))]
            for one, other in zip(poses[:-1], poses[1:], strict=True):
                stride = np.hypot(other.x - one.x, other.y - one.y)
                assert stride <= 0.6 * min(one.diameter, other.diameter)
                assert abs(other.rotation - one.rotation) <= np.pi / steps + 1e-9
                assert 0.7 < other.diameter / one.diameter < 1.4


def test_events_do_what_they_are_called():
    seen = Counter()
    for acts in stories(6):
        for act in acts:
            seen[act.facts.event] += 1
            start, end = act.start, act.end
            way = np.array([end.x - start.x, end.y - start.y])
            event = act.facts.event
            if event == "moves":
                sign = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[act.facts.direction]
                assert way @ sign > 1 / 3 and abs(way @ sign[::-1]) < 1e-9
            elif event in ("grows", "shrinks"):
                factor = end.diameter / start.diameter
                assert factor == pytest.approx(1.9 if event == "grows" else 1 / 1.9)
            elif event == "spins":
                assert abs(end.rotation - start.rotation) == pytest.approx(np.pi)
            elif event == "turns":
                assert (act.facts.old_colour, act.facts.colour) == (start.colour, end.colour)
                assert start.colour != end.colour
                assert all(act.pose(step, 6).colour == end.colour for step in range(1, 7))
            elif event == "stays":
                assert start == end
            assert event == "turns" or start.colour == end.colour
            assert event in ("grows", "shrinks") or start.diameter == end.diameter
    assert set(seen) == set(EVENTS)


@pytest.mark.parametrize("steps", [4, 6, 16])
def test_what_leaves_is_outside_and_comes_back_over_the_same_edge(steps):
    for acts in stories(steps):
        for before, act in zip(acts[:-1], acts[1:], strict=True):
            if before.facts.event != "leaves":
                continue
            x, y, radius = before.end.x, before.end.y, before.end.diameter / 2
            assert x < -radius or x > 1 + radius or y < -radius or y > 1 + radius
            assert 0 < act.end.x < 1 and 0 < act.end.y < 1
            assert np.isclose(act.end.x, before.start.x) or np.isclose(act.end.y, before.start.y)
            assert act.pose(steps, steps) == act.end


def test_nothing_hides_behind_nothing():
    pose = rest_pose(np.random.default_rng(0), 0.2, 0.0, "red")
    with pytest.raises(ValueError, match="nothing to hide behind"):
        play(np.random.default_rng(0), ["hides"], pose, Role("star", 1.9, COLOURS), 6)
