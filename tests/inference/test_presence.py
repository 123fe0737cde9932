"""A followed region in and out of sight: small films worked out by hand, and what holds of every film."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pam_kit.errors import PamKitError
from pam_kit.inference.presence import PresenceTracker, Transition, out_of_sight


def run(film: str, step: float = 0.25, tracker: PresenceTracker | None = None, **arguments) -> list[Transition]:
    """``#`` is a frame in which the region is seen, ``.`` one in which it is not; one frame every ``step`` seconds."""
    tracker = tracker or PresenceTracker(**arguments)
    changes = []
    for index, frame in enumerate(film):
        changes += tracker.update(0.9 if frame == "#" else 0.1, 50 if frame == "#" else 0, index * step)
    return changes


def named(changes: list[Transition]) -> list[tuple[str, int]]:
    return [(change.state, change.frame) for change in changes]


@pytest.mark.parametrize(
    ("film", "expected"),
    [
        ("####", [("present", 0)]),
        ("##..##", [("present", 0), ("occluded", 2), ("found", 4)]),
        ("##.....##", [("present", 0), ("occluded", 2), ("lost", 6), ("found", 7)]),
        ("#....", [("present", 0), ("occluded", 1)]),
        ("#.....", [("present", 0), ("occluded", 1), ("lost", 5)]),
        ("#.#.#", [("present", 0), ("occluded", 1), ("found", 2), ("occluded", 3), ("found", 4)]),
        ("......", [("lost", 0)]),
        ("..#.#", [("lost", 0), ("present", 2), ("occluded", 3), ("found", 4)]),
        ("", []),
    ],
)
def test_films(film, expected):
    """Four frames a second; lost after one second."""
    assert named(run(film)) == expected


def test_a_region_never_seen_is_lost_and_says_so():
    tracker = PresenceTracker()
    assert tracker.status is None and not tracker.never_seen
    (change,) = run(".....", tracker=tracker)
    assert change.to_json() == {"state": "lost", "time": 0.0, "frame": 0, "never_seen": True}
    assert tracker.status == "lost" and tracker.never_seen
    (change,) = tracker.update(1.0, 1, 9.0)
    assert change.to_json() == {"state": "present", "time": 9.0, "frame": 5}
    assert tracker.status == "present" and not tracker.never_seen


@pytest.mark.parametrize(("score", "area", "seen"), [(0.5, 1, True), (0.49, 99, False), (1.0, 0, False)])
def test_seen_is_a_score_and_an_area(score, area, seen):
    tracker = PresenceTracker()
    tracker.update(score, area, 0.0)
    assert tracker.status == ("present" if seen else "lost")


def test_a_change_is_confirmed_and_dated_to_its_first_frame():
    tracker, changes = PresenceTracker(confirm=3, lost_after=10), []
    for index, frame in enumerate("##.#..#...##.###"):
        found = tracker.update(float(frame == "#"), 7, index / 4)
        changes += [(index, change.state, change.frame, change.time) for change in found]
    assert changes == [(0, "present", 0, 0.0), (9, "occluded", 7, 1.75), (15, "found", 13, 3.25)]


def test_a_region_that_may_be_coming_back_is_not_lost():
    """Unseen for a second at frame 5, where it is seen, and at frame 6, where it is not."""
    assert named(run("#....#.", confirm=2)) == [("present", 0), ("occluded", 1), ("lost", 6)]


def test_a_region_can_be_lost_as_soon_as_it_is_hidden():
    assert named(run("#.#", lost_after=0)) == [("present", 0), ("occluded", 1), ("lost", 1), ("found", 2)]


def test_sums_of_frame_times_lose_no_frame():
    """Ten steps of 0.1, from 0.1 on, add up to less than 1."""
    tracker, time, changes = PresenceTracker(), 0.0, []
    for index in range(13):
        changes += tracker.update(float(index < 1), 1, time)
        time += 0.1
    assert named(changes) == [("present", 0), ("occluded", 1), ("lost", 11)]


def test_frames_can_be_numbered_from_elsewhere():
    assert named(run("#.", first_frame=57)) == [("present", 57), ("occluded", 58)]


@pytest.mark.parametrize(
    ("film", "intervals"),
    [
        ("####", []),
        ("##..##", [[0.5, 1.0]]),
        ("#.#......#", [[0.25, 0.5], [0.75, 2.25]]),
        ("##..", [[0.5, 1.0]]),
        ("....", [[0.0, 1.0]]),
        ("..##", [[0.0, 0.5]]),
        ("", []),
    ],
)
def test_intervals_out_of_sight(film, intervals):
    assert out_of_sight(run(film), end=0.25 * len(film)) == intervals


def test_an_interval_cannot_end_before_it_begins():
    with pytest.raises(PamKitError, match=r"ends at 0.5 s, but the region is occluded at 0.75 s"):
        out_of_sight(run("###."), end=0.5)


films = st.text("#.", max_size=60)
arguments = st.fixed_dictionaries(
    {"confirm": st.integers(1, 4), "lost_after": st.sampled_from([0.0, 0.25, 0.6, 1.0, 3.0])}
)


@given(films, arguments, st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_a_restored_tracker_goes_on_like_the_first(film, arguments, cut):
    whole = PresenceTracker(**arguments)
    steps = [whole.update(float(frame == "#"), 3, index / 4) for index, frame in enumerate(film)]
    tracker, again = PresenceTracker(**arguments), []
    for index, frame in enumerate(film):
        if index == cut:
            tracker = PresenceTracker.from_state(json.loads(json.dumps(tracker.state(), allow_nan=False)))
        again.append(tracker.update(float(frame == "#"), 3, index / 4))
    assert again == steps
    assert tracker.state() == whole.state()


@given(films, arguments)
@settings(max_examples=150, deadline=None)
def test_what_holds_of_every_film(film, arguments):
    changes = run(film, **arguments)
    states = [change.state for change in changes]
    assert [change.frame for change in changes] == sorted(change.frame for change in changes)
    assert all(change.time == change.frame * 0.25 for change in changes)
    assert states.count("present") <= 1
    follows = {
        "present": {"occluded"},
        "found": {"occluded"},
        "occluded": {"lost", "found"},
        "lost": {"found", "present"},
    }
    for before, after in zip(changes, changes[1:], strict=False):
        expected = {"present"} if before.never_seen else follows[before.state] - {"present"}
        assert after.state in expected
    turns = [state for state in states if state in ("occluded", "found")]
    assert turns == ["occluded", "found"] * (len(turns) // 2) + ["occluded"] * (len(turns) % 2)


@given(films)
@settings(max_examples=100, deadline=None)
def test_without_hysteresis_the_intervals_are_the_frames_unseen(film):
    """Counted from the film itself: quarters of a second in which the region is not seen."""
    intervals = out_of_sight(run(film), end=len(film) / 4)
    inside = [any(start <= index / 4 < end for start, end in intervals) for index in range(len(film))]
    assert inside == [frame == "." for frame in film]


def test_what_is_kept_does_not_grow():
    tracker = PresenceTracker()
    sizes = set()
    for index in range(2000):
        tracker.update(float(index % 7 < 4), 5, float(index))
        sizes.add(len(tracker.state()))
    assert len(sizes) == 1 and all(not isinstance(value, list | dict) for value in tracker.state().values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lost_after": -1}, "lost_after -1 is no length of time"),
        ({"lost_after": math.inf}, "lost_after inf"),
        ({"confirm": 0}, "confirm 0 is no number of frames"),
        ({"threshold": 1.5}, "threshold 1.5 is no probability"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(PamKitError, match=message):
        PresenceTracker(**arguments)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ((3.5, 10, 2.0), "frame 1: object score 3.5 is no probability; take the sigmoid"),
        ((math.nan, 10, 2.0), "frame 1: object score nan"),
        ((0.5, -1, 2.0), "frame 1: a mask cannot have -1 pixels"),
        ((0.5, 10, 0.5), "frame 1: its time 0.5 s does not follow 1.0 s"),
        ((0.5, 10, math.nan), "frame 1: its time nan s"),
    ],
)
def test_wrong_frames_change_nothing(frame, message):
    tracker = PresenceTracker()
    tracker.update(0.9, 10, 1.0)
    before = tracker.state()
    with pytest.raises(PamKitError, match=message):
        tracker.update(*frame)
    assert tracker.state() == before


def test_another_state_is_refused():
    with pytest.raises(PamKitError, match="not the state of a PresenceTracker: it has the keys seen"):
        PresenceTracker.from_state({"seen": True})
