"""When a stream speaks: events by exact fractions, masks by areas that can be counted, cuts in pictures made here."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pam_kit.errors import PamKitError
from pam_kit.inference.triggers import (
    AnyTrigger,
    AtTrigger,
    EveryTrigger,
    MaskChangeTrigger,
    SceneChangeTrigger,
    Trigger,
    TriggerFrame,
    parse_seconds,
)

NO_MASKS = np.zeros((0, 8, 8), dtype=bool)
NTSC = Fraction(30000, 1001)


def timed(time: float, index: int = 0) -> TriggerFrame:
    return TriggerFrame(time, index, None, NO_MASKS)


def masked(time: float, *areas: int | tuple[int, int]) -> TriggerFrame:
    """One mask a region: the first pixels of 10 x 10, or those from one to another."""
    masks = np.zeros((len(areas), 100), dtype=bool)
    for mask, area in zip(masks, areas, strict=True):
        mask[slice(*area) if isinstance(area, tuple) else slice(area)] = True
    return TriggerFrame(time, 0, None, masks.reshape(-1, 10, 10))


def pictured(image: np.ndarray) -> TriggerFrame:
    return TriggerFrame(0.0, 0, image, NO_MASKS)


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


def test_regions_come_and_go():
    trigger = MaskChangeTrigger(settle=0)
    assert trigger.should_speak(TriggerFrame(0, 0, None, np.zeros((0, 10, 10), bool))) is None
    assert trigger.should_speak(masked(1, 30)) is None, "a new region is compared from its first frame on"
    assert trigger.should_speak(masked(2, 30, 50)) is None
    assert trigger.should_speak(masked(3, 30, 20)) == "mask change"
    assert trigger.should_speak(masked(4, 20)) is None, "one was dropped: all begin anew"
    assert trigger.should_speak(masked(5, 9)) == "mask change"


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
        masks = np.zeros((1 + (index > 9), 10, 10), dtype=bool)
        for mask in masks:
            mask[: random.integers(1, 10) if index % 8 > 3 else 5] = True
        frames.append(TriggerFrame(index / 10, index, scene(index // 11), masks))
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
        MaskChangeTrigger().should_speak(TriggerFrame(0, 0, None, np.zeros((1, 4, 4))))
    trigger = MaskChangeTrigger()
    trigger.should_speak(masked(0, 5))
    with pytest.raises(PamKitError, match=r"masks of \(4, 4\) follow masks of \(10, 10\); keep to one size"):
        trigger.should_speak(TriggerFrame(1, 1, None, np.zeros((1, 4, 4), bool)))
