"""An optimiser step is drawn whole, so that its losses are means over all that it holds, however it is split.

A step's samples are spread over devices and over micro-batches. Were each part's loss a mean of its own, a short answer
that happens to sit in a part with few words would count for more. So every part is weighed by what it holds.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from pam_kit.contracts import ClipBatch, RegionBatch
from pam_kit.errors import BrokenSample, PamKitError

Batch = RegionBatch | ClipBatch


class Counts(NamedTuple):
    """What the losses of a batch are means over: regions with a mask, questions aligned, supervised tokens."""

    masks: int = 0
    alignment: int = 0
    text: int = 0


class Shares(NamedTuple):
    """By what a micro-batch's mean losses are multiplied, so that their mean over all parts of a step is the mean over
    all that the step holds. All are 1 where the parts hold alike."""

    masks: float = 1.0
    alignment: float = 1.0
    text: float = 1.0


class Packet(NamedTuple):
    """A micro-batch, the samples left out of it, its shares in its step, and whether the step ends with it.

    ``asked_elsewhere``: it holds no word to learn, but has to reach all that learns: other micro-batches of the step
    hold some, or other devices wait for what they do together. ``step``: what the whole step holds.
    """

    batch: Batch
    broken: list[BrokenSample]
    shares: Shares = Shares()
    last: bool = True
    asked_elsewhere: bool = False
    own: Counts = Counts()
    step: Counts = Counts()


class StepBatches:
    """Packets of ``loader``, whose items are (batch, broken samples), weighed over each step.

    Args:
        loader: endless micro-batches of this process.
        accumulation: micro-batches a step.
        count: what a batch holds.
        world_size: processes of the run.
        sum_over_processes: Counts of this process -> their sum over all processes; called once a step by each.
    """

    def __init__(
        self,
        loader: Iterable,
        accumulation: int,
        count: Callable[[Batch], Counts],
        world_size: int = 1,
        sum_over_processes: Callable[[Counts], Counts] = lambda counts: counts,
    ):
        self.loader, self.accumulation, self.count = loader, accumulation, count
        self.world_size, self.sum_over_processes = world_size, sum_over_processes

    def __len__(self) -> int:
        return 10**9

    def __iter__(self) -> Iterator[Packet]:
        drawn = iter(self.loader)
        while step := deque(self._counted(*item) for item in islice(drawn, self.accumulation)):
            total = self.sum_over_processes(Counts(*map(sum, zip(*(own for _, _, own in step), strict=True))))
            while step:
                batch, broken, own = step.popleft()
                elsewhere = not own.text and (self.world_size > 1 or total.text > 0)
                yield Packet(batch, broken, self._shares(own, total), not step, elsewhere, own, total)

    def _counted(self, batch: Batch | None, broken: list[BrokenSample]) -> tuple[Batch, list[BrokenSample], Counts]:
        # A step may have more micro-batches than a process may hold files open.
        own = _needed(batch, broken).out_of_shared_memory()
        return own, broken, self.count(own)

    def _shares(self, own: Counts, total: Counts) -> Shares:
        parts = self.world_size * self.accumulation
        pairs = zip(own, total, strict=True)
        return Shares(*(parts * one / everything if everything else 0.0 for one, everything in pairs))


def _needed(batch: Batch | None, broken: list[BrokenSample]) -> Batch:
    if batch is None:
        raise PamKitError(
            f"not one sample of a batch could be used, nor any drawn in its place: {'; '.join(map(str, broken[:3]))}"
            ". Run `pam-kit data check` on the training set"
        )
    return batch
