"""Several training sets as one: whole steps from one set, by their shares, the same for every number of processes."""

from math import sqrt

import numpy as np
import pytest

from pam_kit.data.mixture import Mixture, alike
from pam_kit.errors import BrokenSample, PamKitError


class Numbers:
    """A set whose samples are numbers."""

    def __init__(self, count: int, first: int = 0, clips: bool = False):
        self.count, self.first, self.clips = count, first, clips

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return self.first + index

    def texts(self):
        return iter([f"text {self.first}"])


def mixture(step_size: int = 4, shares=(0.7, 0.3), seed: int = 0, sizes=(10, 7)) -> Mixture:
    return Mixture([Numbers(sizes[0]), Numbers(sizes[1], 100, clips=True)], shares, step_size, seed)


def test_a_step_reads_one_set():
    mixed = mixture(step_size=8)
    for step in range(200):
        assert len({mixed.place(8 * step + offset).number for offset in range(8)}) == 1


def test_sets_have_their_shares_of_the_steps():
    mixed, steps, share = mixture(shares=(3.0, 1.0)), 10_000, 0.25  # across several blocks of draws
    clips = sum(mixed.place(4 * step).number for step in range(steps))
    assert abs(clips - steps * share) < 4 * sqrt(steps * share * (1 - share))


def test_every_set_is_read_pass_by_pass_without_a_gap():
    mixed = mixture()
    read: dict[int, list[int]] = {0: [], 1: []}
    for position in range(4 * 5000):
        place = mixed.place(position)
        read[place.number].append(mixed.read(place) - 100 * place.number)
        assert place.epoch == (len(read[place.number]) - 1) // len(mixed.sets[place.number])
    for number, size in ((0, 10), (1, 7)):
        passes = [read[number][start : start + size] for start in range(0, len(read[number]) - size, size)]
        assert all(sorted(one) == list(range(size)) for one in passes)
        assert len({tuple(one) for one in passes}) > len(passes) // 2


def test_a_place_depends_on_seed_and_position_alone():
    positions = np.random.default_rng(0).permutation(40_000)[:300].tolist()
    straight, jumping = mixture(), mixture()
    places = {position: straight.place(position) for position in sorted(positions)}
    assert {position: jumping.place(position) for position in positions} == places
    assert [mixture(seed=1).place(p) for p in positions[:20]] != [places[p] for p in positions[:20]]


def test_a_single_set_is_read_in_its_own_order():
    alone = Mixture.of(Numbers(5), seed=3)
    assert [sorted(alone.place(5 * epoch + i).sample for i in range(5)) for epoch in range(3)] == [[0, 1, 2, 3, 4]] * 3
    assert not alone.clips and mixture().clips and len(mixture()) == 17
    assert list(mixture().texts()) == ["text 0", "text 100"]


def test_sets_that_cannot_be_mixed_are_refused():
    with pytest.raises(BrokenSample, match="the training set is empty"):
        mixture(sizes=(3, 0))
    with pytest.raises(PamKitError, match="above 0"):
        mixture(shares=(1.0, 0.0))


def test_samples_of_a_step_are_alike_where_lengths_are_known():
    lengths = np.random.default_rng(3).integers(1, 1000, 600)
    sets = [Numbers(600), Numbers(600, 1000)]
    grouped = Mixture(sets, (0.5, 0.5), 6, 0, [lengths, None])
    plain = Mixture(sets, (0.5, 0.5), 6, 0)
    spread: dict[str, list[int]] = {"grouped": [], "plain": []}
    seen = []
    for step in range(400):
        for name, mixed in (("grouped", grouped), ("plain", plain)):
            places = [mixed.place(6 * step + offset) for offset in range(6)]
            if places[0].number == 0 and places[0].epoch == places[-1].epoch == 0:
                spread[name].append(int(np.ptp([lengths[place.sample] for place in places])))
                seen += [place.sample for place in places if name == "grouped"]
    # A window of 192 samples between 1 and 999 leaves 6 neighbours about 30 apart; six at random, about 700.
    assert np.mean(spread["grouped"]) < 60 and np.mean(spread["plain"]) > 500
    assert sorted(seen) == list(range(600))
    # The set whose lengths nobody knows is read as before.
    assert all(
        grouped.place(position) == plain.place(position)
        for position in range(2000)
        if plain.place(position).number == 1
    )


def test_steps_are_alike_in_later_passes_too():
    """Of a set that is no whole number of steps long, a pass begins in the middle of a step."""
    lengths = np.random.default_rng(4).integers(1, 1000, 205)
    mixed = Mixture([Numbers(205)], (1.0,), 6, 0, [lengths])
    spread = []
    for step in range(136):
        places = [mixed.place(6 * step + offset) for offset in range(6)]
        if places[0].epoch == places[-1].epoch > 0:
            spread.append(int(np.ptp([lengths[place.sample] for place in places])))
    assert len(spread) > 90 and np.mean(spread) < 90
    for epoch in range(3):
        read = [mixed.place(205 * epoch + index).sample for index in range(205)]
        assert sorted(read) == list(range(205))


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 191, 192, 193, 500])
def test_alike_reorders_and_loses_nothing(count):
    rng = np.random.default_rng(count)
    order, lengths = rng.permutation(count), rng.integers(1, 9, count)
    sorted_order = alike(order, lengths, 6, rng)
    assert sorted(sorted_order.tolist()) == list(range(count))
