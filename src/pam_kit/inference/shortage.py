"""What a session does where memory is short: it lets go of what it keeps, and does less at once from then on."""

from collections.abc import Hashable, MutableMapping, Sequence

from torch import Tensor

from pam_kit.inference.asked_regions import AskedRegion, Pair
from pam_kit.inference.kept_readings import KeptReadings
from pam_kit.inference.session_settings import Bounds


class Shortage:
    """Lets go of ``kept`` readings and lowers ``bounds``; the regions that it concerns have a note of it.

    Args:
        bounds: how much is done at once.
        kept: what was read of regions, which can be read again.
    """

    def __init__(self, bounds: Bounds, kept: KeptReadings):
        self._bounds, self._kept = bounds, kept

    def fewer_regions(self, chunk: Sequence[AskedRegion]) -> None:
        """These were too many to be seen at once."""
        self._kept.forget()
        note = self._bounds.halve("region_batch", len(chunk), "regions at once")
        for region in chunk:
            region.notes.append(note)

    def fewer_answers(self, pairs: Sequence[Pair]) -> None:
        """These were too many to be answered at once."""
        self._kept.forget()
        note = self._bounds.halve("answer_batch", len(pairs), "answers at once")
        for pair in pairs:
            pair.view.region.notes.append(note)

    def release_for_region(self, region: AskedRegion) -> bool:
        """Let go of all that is kept, before a region is given up; whether there was anything."""
        return self._release(region)

    def release_for_answer(self, waiting: MutableMapping[Hashable, Tensor], pair: Pair) -> bool:
        """Let go of what is kept and of what is ``waiting``, but for the view that is asked about, as above."""
        others = [name for name in waiting if name != pair.view.name]
        for name in others:
            del waiting[name]
        return self._release(pair.view.region, pair.view.name) or bool(others)

    def _release(self, region: AskedRegion, *used: Hashable) -> bool:
        held = len(self._kept)
        if not self._kept.forget(but=used):
            return False
        region.notes.append(self._bounds.halve("kept_regions", held, "regions kept besides"))
        self._kept.limit = self._bounds.now.kept_regions
        return True
