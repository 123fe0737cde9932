"""Several training sets as one: which set, and which place in it, a position of the training reads."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pam_kit.contracts import ClipSample, RegionSample
from pam_kit.data.schema import RegionDataset, has_clips
from pam_kit.errors import BrokenSample, PamKitError

_BLOCK = 4096
# Samples are sorted by length among those of so many steps: alike in a step, and still in another order every pass.
_STEPS_SORTED = 32


class Place(NamedTuple):
    """Sample ``sample`` of set ``number``, in pass ``epoch`` over it."""

    number: int
    epoch: int
    sample: int


def alike(order: np.ndarray, lengths: np.ndarray, step_size: int, rng: np.random.Generator) -> np.ndarray:
    """``order`` changed so that the samples of a step are of like lengths; the steps come in a drawn order.

    Args:
        order: (n,) the samples of a pass, drawn.
        lengths: (n,) of these samples.
    """
    window = _STEPS_SORTED * step_size
    steps = []
    for start in range(0, len(order), window):
        part = order[start : start + window]
        part = part[np.argsort(lengths[start : start + window], kind="stable")]
        full = len(part) // step_size * step_size
        whole = part[:full].reshape(-1, step_size)
        steps += [whole[rng.permutation(len(whole))].ravel(), part[full:]]
    return np.concatenate(steps) if steps else order


class Mixture:
    """Training sets that take turns: all samples of an optimiser step come from one set.

    So a step holds pictures or clips, not both. Which set a step reads is drawn from (seed, step) with the sets'
    shares; each set goes on where its last step ended, in an order of its own in every pass.

    Args:
        sets: the datasets.
        shares: of the steps, one for each set; they need not sum to 1.
        step_size: samples an optimiser step, over all devices.
        seed: of the draws and orders.
        lengths: for each set how long its samples are, so that those of a step are alike; None leaves it to chance.
    """

    def __init__(
        self,
        sets: Sequence[RegionDataset],
        shares: Sequence[float],
        step_size: int,
        seed: int,
        lengths: Sequence[np.ndarray | None] | None = None,
    ):
        self.sets, self.step_size, self.seed = list(sets), step_size, seed
        self.lengths = list(lengths or [None] * len(self.sets))
        if any(share <= 0 for share in shares):
            raise PamKitError(f"the shares of training sets must be above 0, not {list(shares)}")
        for dataset in self.sets:
            if len(dataset) == 0:
                raise BrokenSample(type(dataset).__name__, "the training set is empty")
        self._shares = np.asarray(shares, dtype=float) / sum(shares)
        self._turns: np.ndarray = np.zeros(0, dtype=np.int64)  # the set of each step
        self._before: np.ndarray = np.zeros((0, len(self.sets)), dtype=np.int64)  # steps of each set before each step
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    @classmethod
    def of(cls, dataset: RegionDataset, seed: int) -> "Mixture":
        """A single set."""
        return cls([dataset], [1.0], 1, seed)

    @property
    def clips(self) -> bool:
        """Whether any set has clips."""
        return any(has_clips(dataset) for dataset in self.sets)

    def __len__(self) -> int:
        """Samples of all sets together."""
        return sum(len(dataset) for dataset in self.sets)

    def texts(self) -> Iterator[str]:
        for dataset in self.sets:
            yield from dataset.texts()

    def place(self, position: int) -> Place:
        """What is read at a position of the training; depends on the seed and the position alone."""
        number, own = self._own_position(position)
        epoch, index = divmod(own, len(self.sets[number]))
        return Place(number, epoch, int(self._order(number, epoch)[index]))

    def read(self, place: Place) -> RegionSample | ClipSample:
        """Raises BrokenSample."""
        return self.sets[place.number][place.sample]

    def _own_position(self, position: int) -> tuple[int, int]:
        """The set, and how many of its samples were read before."""
        if len(self.sets) == 1:
            return 0, position
        step, offset = divmod(position, self.step_size)
        while step >= len(self._turns):
            self._draw_turns()
        number = int(self._turns[step])
        return number, int(self._before[step, number]) * self.step_size + offset

    def _draw_turns(self) -> None:
        rng = np.random.default_rng([self.seed, 3, len(self._turns) // _BLOCK])
        turns = rng.choice(len(self.sets), size=_BLOCK, p=self._shares)
        counted = np.cumsum(turns[:, None] == np.arange(len(self.sets)), axis=0)
        last = self._before[-1] + (self._turns[-1] == np.arange(len(self.sets))) if len(self._turns) else 0
        first: np.ndarray = np.zeros((1, len(self.sets)), dtype=np.int64)
        self._before = np.concatenate([self._before, np.concatenate([first, counted[:-1]]) + last])
        self._turns = np.concatenate([self._turns, turns])

    def _order(self, number: int, epoch: int) -> np.ndarray:
        known, order = self._orders.get(number, (-1, np.zeros(0)))
        if known != epoch:
            key = [self.seed, 1, epoch, number] if number else [self.seed, 1, epoch]
            rng = np.random.default_rng(key)
            order = rng.permutation(len(self.sets[number]))
            lengths = self.lengths[number]
            if lengths is not None:
                # The first samples of a later pass fill up the step that the pass before it left unfinished.
                begun = -epoch * len(order) % self.step_size
                head, rest = order[:begun], order[begun:]
                order = np.concatenate([head, alike(rest, lengths[rest], self.step_size, rng)])
            self._orders[number] = (epoch, order)
        return order
