"""Times that go on, whatever the source's clock does."""

import pytest

from pam_kit.data.video.clock import Clock


def times(told: list[int | None], first: int | None = 50, rate: float | None = 10, begin: int = 0) -> list[float]:
    clock = Clock(first, 0.01, rate)
    return [clock.time(index, ticks) for index, ticks in enumerate(told, begin)]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([50, 57, 91], [0, 0.07, 0.41]),
        ([50, 50, 60], [0, 0, 0.1]),
        ([50, 60, 70, 50, 60, 50], [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        ([50, 60, 55, 65, 900], [0, 0.1, 0.2, 0.3, 8.65]),
        ([50, None, None, 95], [0, 0.1, 0.2, 0.45]),
        # A time below one that was only counted is no jump.
        ([50, 55, None, 60, 80], [0, 0.05, 0.15, 0.15, 0.3]),
        ([50, 60, 50, None, 70], [0, 0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_times_never_fall(told, expected):
    assert times(told) == pytest.approx(expected)


def test_without_a_clock_frames_are_counted():
    assert times([None] * 3, None) == [0, 0.1, 0.2]
    assert times([None] * 3, None, None, 60) == pytest.approx([60 / 30, 61 / 30, 62 / 30])
    assert times([70, 80], None) == [0, 0.1], "a clock whose first time is unknown says nothing"


def test_another_clock_may_stand_in():
    clock = Clock(None, 0.01, 10)
    assert [clock.time(index, None, seconds) for index, seconds in enumerate([0.0, 0.3, 0.1])] == pytest.approx(
        [0, 0.3, 0.4]
    )
