"""What a decoder has read of the regions that were asked about last, so that it need not read them again."""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

from pam_kit.contracts import Reading


@dataclass
class _Kept:
    reading: Reading
    names: list[Hashable]


class KeptReadings:
    """Readings of at most ``limit`` regions in all; those that were not asked about for longest are forgotten first.

    Regions that were read together are kept and forgotten together.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._kept: list[_Kept] = []  # the last used one stands last

    def __contains__(self, name: Hashable) -> bool:
        return any(name in kept.names for kept in self._kept)

    def __len__(self) -> int:
        return sum(len(kept.names) for kept in self._kept)

    def add(self, names: Sequence[Hashable], reading: Reading) -> None:
        """Keep the reading of these regions; of more than ``limit`` the last."""
        if (surplus := len(names) - self.limit) > 0:
            if not self.limit:
                return
            names, reading = names[surplus:], reading.of_rows(range(surplus, len(names)))
        while self._kept and len(self) + len(names) > self.limit:
            del self._kept[0]
        self._kept.append(_Kept(reading, list(names)))

    def of(self, names: Sequence[Hashable]) -> Reading:
        """One reading of these regions, each of which is kept, in this order."""
        parts: list[tuple[_Kept, list[int]]] = []
        for name in names:
            kept = next(kept for kept in reversed(self._kept) if name in kept.names)
            if not parts or parts[-1][0] is not kept:
                parts.append((kept, []))
            parts[-1][1].append(kept.names.index(name))
        for kept, _ in parts:
            self._kept.remove(kept)
            self._kept.append(kept)
        readings = [
            kept.reading if rows == list(range(len(kept.names))) else kept.reading.of_rows(rows) for kept, rows in parts
        ]
        return readings[0] if len(readings) == 1 else readings[0].joined(readings[1:])

    def forget(self, but: Collection[Hashable] = ()) -> int:
        """Keep nothing but what was read of no other regions than these; how many are forgotten."""
        before = len(self)
        self._kept = [kept for kept in self._kept if set(kept.names) <= set(but)]
        return before - len(self)
