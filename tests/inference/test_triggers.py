"""When a stream speaks: events by exact fractions, masks by areas that can be counted, cuts in pictures made here."""

import json
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pam_kit.errors import PamKitError
from pam_kit.inference.change_triggers import MaskChangeTrigger, SceneChangeTrigger
from pam_kit.inference.triggers import AnyTrigger, AtTrigger, EveryTrigger, Trigger, TriggerFrame, parse_seconds

NTSC = Fraction(30000, 1001)


def timed(time: float, regions: tuple[int, ...] = (1,)) -> TriggerFrame:
    return TriggerFrame(time, 0, None, np.zeros((len(regions), 8, 8), dtype=bool), regions)


def masked(time: float, *areas: int | tuple[int, int], regions: tuple[int, ...] | None = None) -> TriggerFrame:
    """One mask a region, 1, 2, ... by default: the first pixels of 10 x 10, or those from one to another."""
    masks = np.zeros((len(areas), 100), dtype=bool)
    for mask, area in zip(masks, areas, strict=True):
        mask[slice(*area) if isinstance(area, tuple) else slice(area)] = True
    numbers = tuple(range(1, len(areas) + 1)) if regions is None else regions
    return TriggerFrame(time, 0, None, masks.reshape(-1, 10, 10), numbers)


def pictured(image: np.ndarray) -> TriggerFrame:
    return TriggerFrame(0.0, 0, image, np.zeros((0, 8, 8), dtype=bool), ())


def spoken_at(trigger: Trigger, frames) -> list[tuple[int, str]]:
    """(frame, reason) wherever the trigger makes a stream speak that obeys at once."""
    said = []
    for index, frame in enumerate(frames):
        reason = trigger.should_speak(frame)
        if reason is not None:
            said.append((index, reason))
            trigger.spoken(frame)
    return said


def frame_times(rate: Fraction, count: int, summed: bool) -> list[float]:
    """Exact times rounded once, or added up step by step, as a careless reader does."""
    if not summed:
        return [float(index / rate) for index in range(count)]
    return [float(time) for time in np.cumsum([0.0] + [float(1 / rate)] * (count - 1))]


def first_frames(times: list[Fraction], rate: Fraction, count: int) -> list[int]:
    """The first frame at or after each time, each frame once, by exact arithmetic."""
    return sorted({math.ceil(time * rate) for time in times if math.ceil(time * rate) < count})


rates = st.sampled_from([NTSC, Fraction(24000, 1001), Fraction(25), Fraction(30), Fraction(25, 2)])


@given(rates, st.integers(1, 700), st.booleans())
@settings(max_examples=100, deadline=None)
def test_every_multiple_is_spoken_at_once(rate, hundredths, summed):
    period, count = Fraction(hundredths, 100), 400
    frames = [timed(time) for time in frame_times(rate, count, summed)]
    multiples = [period * k for k in range(1, math.ceil(count / rate / period) + 1)]
    said = [index for index, _ in spoken_at(EveryTrigger(float(period)), frames)]
    assert said == first_frames(multiples, rate, count)


@given(rates, st.lists(st.integers(0, 1400), min_size=1, max_size=12, unique=True), st.booleans())
@settings(max_examples=100, deadline=None)
def test_every_given_time_is_spoken_at_once(rate, hundredths, summed):
    times = sorted(Fraction(value, 100) for value in hundredths)
    trigger = AtTrigger([float(time) for time in times])
    said = [index for index, _ in spoken_at(trigger, [timed(time) for time in frame_times(rate, 300, summed)])]
    assert said == first_frames(times, rate, 300)
    assert trigger.remaining == tuple(float(time) for time in times if math.ceil(time * rate) >= 300)


def test_two_seconds_at_29_97_frames_a_second():
    """2 s lie between frames 59 (1.969 s) and 60 (2.002 s)."""
    frames = [timed(time) for time in frame_times(NTSC, 200, summed=True)]
    assert spoken_at(EveryTrigger(2), frames) == [(60, "every 2s"), (120, "every 2s"), (180, "every 2s")]


def test_an_hour_of_ntsc_loses_nothing():
    trigger, said = EveryTrigger(0.1), 0
    for index in range(0, 108000):
        frame = timed(index * 1001 / 30000)
        if trigger.should_speak(frame):
            said += 1
            trigger.spoken(frame)
    assert said == math.floor(Fraction(107999) / NTSC / Fraction(1, 10))


def test_a_gap_and_a_late_start_are_spoken_of_once():
    assert spoken_at(EveryTrigger(2), [timed(time) for time in (101.0, 101.9, 102.1, 109.0, 109.9, 110.0)]) == [
        (2, "every 2s"),
        (3, "every 2s"),
        (5, "every 2s"),
    ]
    at = AtTrigger([3.5, 4, 7.25])
    assert spoken_at(at, [timed(time) for time in (3.0, 5.0, 6.0, 9.0)]) == [(1, "at 3.5s, 4s"), (3, "at 7.25s")]
    assert at.remaining == ()


def test_a_trigger_asks_until_the_stream_has_spoken():
    trigger = AnyTrigger([EveryTrigger(1), AtTrigger([0.5])])
    assert [trigger.should_speak(timed(time)) for time in (0.0, 0.5, 0.9, 1.0)] == [
        None,
        "at 0.5s",
        "at 0.5s",
        "every 1s, at 0.5s",
    ]
    trigger.spoken(timed(1.0))
    assert trigger.should_speak(timed(1.1)) is None
    assert trigger.should_speak(timed(2.0)) == "every 1s"


def test_a_mask_changes_when_half_of_it_is_gone():
    """IoU of 50 and 40 pixels is 0.8, of 50 and 26 0.52, of 50 and 24 0.48."""
    trigger = MaskChangeTrigger(threshold=0.5, settle=0)
    said = spoken_at(trigger, [masked(0, 50), masked(1, 40), masked(2, 26), masked(3, 24), masked(4, 24)])
    assert said == [(3, "mask change")]


@pytest.mark.parametrize(
    ("before", "now", "changes"),
    [
        (20, (20, 40), True),  # moved
        (20, 41, True),  # grown: 20 / 41
        (20, 40, False),  # 20 / 40 is not below a half
        (20, 0, True),  # vanished
        (0, 1, True),  # appeared
        (0, 0, False),
        (20, (6, 26), False),  # moved a little: 14 / 26
    ],
)
def test_what_is_a_change_of_a_mask(before, now, changes):
    said = spoken_at(MaskChangeTrigger(settle=0), [masked(0, before, 30), masked(1, now, 30)])
    assert said == ([(1, "mask change")] if changes else [])


def test_a_change_has_to_settle():
    frames = [masked(0.25 * i, area) for i, area in enumerate([50, 10, 50, 10, 12, 11, 10, 50])]
    assert spoken_at(MaskChangeTrigger(settle=0.5), frames) == [(5, "mask change")]
    assert spoken_at(MaskChangeTrigger(settle=0), frames) == [(i, "mask change") for i in (1, 2, 3, 7)]


def test_masks_are_compared_with_those_last_spoken_of():
    """Slow growth: each step is small, the sum is not. Having spoken for another reason counts too."""
    frames = [masked(i, area) for i, area in enumerate(range(20, 50, 3))]
    assert spoken_at(MaskChangeTrigger(settle=0), frames) == [(7, "mask change")]
    trigger = MaskChangeTrigger(settle=0)
    for frame in frames[:4]:
        assert trigger.should_speak(frame) is None
    trigger.spoken(frames[3])
    assert [trigger.should_speak(frame) for frame in frames[4:]] == [None] * 6


def test_periods_are_counted_from_the_first_frame_of_a_region():
    """While there is none nothing is due, and not in the frame in which the first one joins either."""
    trigger = EveryTrigger(2)
    assert [trigger.should_speak(timed(time, ())) for time in (0.0, 3.0, 9.0)] == [None] * 3
    assert spoken_at(trigger, [timed(time) for time in (10.0, 10.5, 12.0, 13.9, 14.0)]) == [
        (2, "every 2s"),
        (4, "every 2s"),
    ]
    assert trigger.should_speak(timed(19.0, ())) is None
    assert [trigger.should_speak(timed(time)) for time in (19.5, 20.0)] == [None, "every 2s"]


def test_times_at_which_there_was_nothing_to_speak_of_are_kept():
    trigger = AnyTrigger([AtTrigger([1, 2, 3, 9]), SceneChangeTrigger()])
    at, frames = trigger.triggers[0], [pictured(scene(seed)) for seed in (1, 2)]
    frames = [replace(frame, time=time) for frame, time in zip(frames, (0.0, 2.5), strict=True)]
    assert trigger.should_speak(frames[0]) is None
    assert trigger.should_speak(frames[1]) == "at 1s, 2s, scene change"
    trigger.passed(frames[1])
    assert trigger.should_speak(frames[1]) is None
    assert at.missed == [1, 2] and at.remaining == (3, 9)
    again = AtTrigger([1, 2, 3, 9])
    again.restore(stored(at.state()))
    assert not again.missed and again.remaining == (3, 9)


def test_regions_come_and_go():
    trigger = MaskChangeTrigger(settle=0)
    assert trigger.should_speak(masked(0)) is None
    assert trigger.should_speak(masked(1, 30)) is None, "a new region is compared from its first frame on"
    assert trigger.should_speak(masked(2, 30, 50)) is None
    assert trigger.should_speak(masked(3, 30, 20)) == "mask change"
    assert trigger.should_speak(masked(4, 20)) is None, "what is gone is no reason"
    assert trigger.should_speak(masked(5, 20, 9)) is None, "one that joins again is compared from then on"
    assert trigger.should_speak(masked(6, 9, 9)) == "mask change", "the other one from where it was"


def test_a_region_of_a_lower_number_that_joins_is_no_change():
    """Rows shift when it joins; each region is compared with itself."""
    trigger = MaskChangeTrigger(settle=0)
    assert trigger.should_speak(masked(0, 30, (60, 90), regions=(2, 5))) is None
    joined = masked(1, (40, 50), 30, (60, 90), regions=(1, 2, 5))
    assert trigger.should_speak(joined) is None
    assert trigger.should_speak(masked(2, (40, 50), 30, 5, regions=(1, 2, 5))) == "mask change"


def test_one_that_leaves_as_another_joins_is_no_change():
    trigger = MaskChangeTrigger(settle=0)
    assert trigger.should_speak(masked(0, 30, (60, 90), regions=(1, 2))) is None
    assert trigger.should_speak(masked(1, 30, (40, 50), regions=(1, 3))) is None
    assert trigger.should_speak(masked(2, 30, (70, 80), regions=(1, 3))) == "mask change"


def test_those_that_were_not_spoken_of_are_compared_on():
    trigger = MaskChangeTrigger(settle=1)
    frames = [masked(time, *areas) for time, areas in enumerate([(50, 50), (20, 50), (20, 20), (20, 20)])]
    assert [trigger.should_speak(frame) for frame in frames[:3]] == [None, None, "mask change"]
    trigger.spoken(frames[2].of([1]))
    assert trigger.should_speak(frames[3]) == "mask change", "of region 2, since a second"
    trigger.spoken(frames[3].of([2]))
    assert trigger.should_speak(replace(frames[3], time=9.0)) is None


def test_masks_that_flicker_in_turns_have_not_settled():
    frames = [masked(0.25 * i, 10 if i % 2 else 50, 50 if i % 2 else 10) for i in range(10)]
    assert spoken_at(MaskChangeTrigger(settle=0.5), frames) == []


def scene(seed: int, side: int = 64) -> np.ndarray:
    """Coarse random patches of colour, away from black and white so that brightness has room to change."""
    patches = np.random.default_rng(seed).integers(60, 160, (8, 8, 3), dtype=np.uint8)
    return patches.repeat(side // 8, 0).repeat(side // 8, 1)


def brightness(image: np.ndarray, gain: float, offset: float) -> np.ndarray:
    return np.clip(image.astype(float) * gain + offset, 0, 255).round().astype(np.uint8)


def test_a_cut_is_told_from_flicker_noise_and_movement():
    random = np.random.default_rng(0)
    first = scene(1)
    calm = [first, *(brightness(first, gain, offset) for gain, offset in ((1, 60), (1.4, 0), (0.6, 10), (1, -50)))]
    calm += [np.roll(first, shift, axis=1) for shift in (0, 1, 2, 3, 2, 1, 0)]
    calm += [brightness(first, 1, random.normal(0, 12, first.shape)) for _ in range(4)]
    assert spoken_at(SceneChangeTrigger(), map(pictured, calm)) == []
    frames = [*calm, scene(2), scene(2), brightness(scene(2), 0.7, 0), scene(3), calm[0]]
    cuts = [len(calm), len(calm) + 3, len(calm) + 4]
    assert spoken_at(SceneChangeTrigger(), map(pictured, frames)) == [(index, "scene change") for index in cuts]


def test_a_dark_and_noisy_picture_is_no_cut():
    random = np.random.default_rng(0)
    frames = [random.integers(0, 6, (64, 64, 3), dtype=np.uint8) for _ in range(20)]
    assert spoken_at(SceneChangeTrigger(), map(pictured, frames)) == []


def test_a_slow_change_of_scene_is_no_cut():
    first, last = scene(1).astype(float), scene(2).astype(float)
    frames = [brightness(first * (1 - share) + last * share, 1, 0) for share in np.linspace(0, 1, 20)]
    assert spoken_at(SceneChangeTrigger(), map(pictured, frames)) == []


def test_the_threshold_is_in_standard_deviations():
    """Halves of black and white against the same upside down: every pixel is 2 standard deviations apart."""
    halves = np.zeros((64, 96, 3), dtype=np.uint8)
    halves[32:] = 200
    frames = [pictured(halves), pictured(halves[::-1].copy())]
    assert spoken_at(SceneChangeTrigger(1.99), frames) == [(1, "scene change")]
    assert spoken_at(SceneChangeTrigger(2.01), frames) == []


@pytest.mark.parametrize("shape", [(5, 3), (31, 200), (720, 1280)])
def test_pictures_of_any_size(shape):
    picture = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    assert spoken_at(SceneChangeTrigger(), [pictured(picture)] * 3) == []


def make() -> AnyTrigger:
    return AnyTrigger([EveryTrigger(1.3), AtTrigger([0.4, 2.5]), MaskChangeTrigger(settle=0.2), SceneChangeTrigger()])


def stored(state: dict) -> dict:
    """Through JSON what is no array, and the arrays through copies."""
    arrays = {name: value.copy() for name, value in state.items() if isinstance(value, np.ndarray)}
    rest = {name: value for name, value in state.items() if name not in arrays}
    return {**json.loads(json.dumps(rest, allow_nan=False)), **arrays}


def a_stream(count: int = 40) -> list[TriggerFrame]:
    random = np.random.default_rng(3)
    frames = []
    for index in range(count):
        regions = (1, 2) if index > 9 else (1,)
        masks = np.zeros((len(regions), 10, 10), dtype=bool)
        for mask in masks:
            mask[: random.integers(1, 10) if index % 8 > 3 else 5] = True
        frames.append(TriggerFrame(index / 10, index, scene(index // 11), masks, regions))
    return frames


@pytest.mark.parametrize("cut", [0, 1, 5, 13, 26, 39])
def test_a_restored_trigger_goes_on_like_the_first(cut):
    frames, first = a_stream(), make()
    whole = spoken_at(first, frames)
    before, after = make(), make()
    said = spoken_at(before, frames[:cut])
    after.restore(stored(before.state()))
    said += [(cut + index, reason) for index, reason in spoken_at(after, frames[cut:])]
    assert said == whole
    reasons = ", ".join(reason for _, reason in whole)
    assert all(word in reasons for word in ("every 1.3s", "at 0.4s", "mask change", "scene change"))


def test_an_unheard_cut_is_kept():
    trigger, again = SceneChangeTrigger(), SceneChangeTrigger()
    for seed in (1, 2):
        trigger.should_speak(pictured(scene(seed)))
    again.restore(stored(trigger.state()))
    assert again.should_speak(pictured(scene(2))) == "scene change"


def test_a_state_is_of_its_own_and_of_constant_size():
    trigger, sizes = make(), set()
    frames = a_stream(200)
    for frame in frames[10:]:
        spoken_at(trigger, [frame])
        state = trigger.state()
        sizes.add((len(state), sum(value.nbytes for value in state.values() if isinstance(value, np.ndarray))))
    assert len(sizes) == 1
    held = trigger.state()["2.reference"]
    held[:] = ~held
    assert not np.array_equal(held, trigger.state()["2.reference"])
    frames[-1].masks[:] = False
    assert trigger.state()["2.reference"].any()


@pytest.mark.parametrize("other", [EveryTrigger(3), AtTrigger([2]), AnyTrigger([EveryTrigger(2)])])
def test_the_state_of_another_trigger_is_refused(other):
    with pytest.raises(PamKitError, match="not of 'every 2s'; restore a stream with the arguments it was made with"):
        EveryTrigger(2).restore(other.state())


def test_no_trigger_never_speaks():
    assert AnyTrigger([]).should_speak(timed(5.0)) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("2s", 2.0), ("500ms", 0.5), ("3.5", 3.5), (" 0 ", 0.0), ("1.5 s", 1.5), ("250 ms", 0.25)]
)
def test_seconds_as_they_are_typed(text, seconds):
    assert parse_seconds(text) == pytest.approx(seconds, abs=1e-12)


@pytest.mark.parametrize("text", ["", "s", "2m", "two", "-1s", "nan", "inf", "1,5", "2ss", "2s500ms"])
def test_what_is_no_time(text):
    with pytest.raises(PamKitError, match="is no time; expected seconds as in 2s, 500ms or 3.5") as error:
        parse_seconds(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EveryTrigger(0), "cannot speak every 0 seconds; give a period above 0"),
        (lambda: EveryTrigger(-2), "cannot speak every -2 seconds"),
        (lambda: EveryTrigger(math.nan), "cannot speak every nan seconds"),
        (lambda: AtTrigger([]), "at these times: none; give one or more"),
        (lambda: AtTrigger([1, -2]), "at these times: 1, -2; give one or more, in seconds from 0 up"),
        (lambda: AtTrigger([3, 2]), "times 3, 2 are not in ascending order; sort them"),
        (lambda: AtTrigger([2, 2]), "times 2, 2 are not in ascending order"),
        (lambda: MaskChangeTrigger(threshold=1), "threshold 1 of the mask change is not between 0 and 1"),
        (lambda: MaskChangeTrigger(settle=-1), "settle -1 is no length of time"),
        (lambda: SceneChangeTrigger(0), "threshold 0 of the scene change is not above 0"),
    ],
)
def test_wrong_arguments(build, message):
    with pytest.raises(PamKitError, match=message):
        build()


def test_wrong_frames():
    with pytest.raises(PamKitError, match="told by pictures, .* not NoneType; give them with each frame"):
        SceneChangeTrigger().should_speak(timed(0))
    with pytest.raises(PamKitError, match=r"not \(4, 4\) uint8"):
        SceneChangeTrigger().should_speak(pictured(np.zeros((4, 4), np.uint8)))
    with pytest.raises(PamKitError, match=r"boolean \(R, h, w\) NumPy array, not \(1, 4, 4\) float64; threshold them"):
        MaskChangeTrigger().should_speak(TriggerFrame(0, 0, None, np.zeros((1, 4, 4)), (1,)))
    with pytest.raises(PamKitError, match=r"1 masks of the regions \[1, 2\]; give one mask a region"):
        MaskChangeTrigger().should_speak(replace(masked(0, 5), regions=(1, 2)))
    trigger = MaskChangeTrigger()
    trigger.should_speak(masked(0, 5))
    with pytest.raises(PamKitError, match=r"masks of \(4, 4\) follow masks of \(10, 10\); keep to one size"):
        trigger.should_speak(TriggerFrame(1, 1, None, np.zeros((1, 4, 4), bool), (1,)))
