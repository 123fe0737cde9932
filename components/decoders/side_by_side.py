"""Questions about one region side by side behind it, so that all of them look at one copy of its keys and values.

The rows of a batch are regions. Behind what was read of a region stand the words of its first question, then those of
the second, and so on; each step of decoding adds one column for every answer that goes on. Who may look at what is the
mask's business: a word looks at the region and at what its own question has said before, at the positions these would
have if the question stood there alone.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

# Owners of columns: everyone looks at what was read, nobody at padding. Questions are owners from 0 on.
SHARED, PADDING = -1, -2


class SideBySide:
    """Which columns behind ``length`` shared ones belong to which of Q questions.

    Args:
        rows: for each question the row of its region.
        tails: for each question its ids (T,).
        count: R, the number of rows.
        length: columns that were read of each region.
        device: where positions and masks are needed.

    Attributes:
        width: columns of the words of the questions.
    """

    def __init__(
        self, rows: Sequence[int], tails: Sequence[Tensor], count: int, length: int, device: torch.device | str
    ):
        self.rows, self.length, self.device = list(rows), length, torch.device(device)
        self._capacity: int | None = None
        self._tails, self._count = list(tails), count
        self._lengths = torch.tensor([len(tail) for tail in tails])
        members: list[list[int]] = [[] for _ in range(count)]
        for question, row in enumerate(self.rows):
            members[row].append(question)
        self._members = members
        self.width = max(sum(len(tails[question]) for question in own) for own in members)
        self._owners = torch.full((count, length), SHARED)
        # One question a row, all equally long: whatever is there may be looked at, and a mask would only take time.
        self._plain = all(len(own) == 1 for own in members) and len(set(self._lengths.tolist())) == 1

    def fix(self, steps: int) -> int:
        """Give all masks of ``steps`` steps, through which all questions go, one width, and say which.

        It is a multiple of 64, so that questions of nearly the same length need the same shapes.
        """
        most = max(map(len, self._members))
        self._capacity = -(-(self.length + self.width + (steps - 1) * most) // 64) * 64
        self._plain = False
        return self._capacity

    def words(self, pad: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """The words of all questions: ids, positions (R, W), the mask (R, 1, W, length + W), and which are the last.

        The last is (Q,) long, places in the flattened (R, W) of the last word of each question.
        """
        ids, owners, positions = [], [], []
        last = torch.zeros(len(self.rows), dtype=torch.long)
        for row, own in enumerate(self._members):
            parts = [self._tails[question] for question in own]
            sizes = self._lengths[own]
            ends = sizes.cumsum(0)
            last[own] = row * self.width + ends - 1
            ids.append(torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long))
            owners.append(torch.tensor(own, dtype=torch.long).repeat_interleave(sizes))
            positions.append(self.length + torch.arange(len(ids[-1])) - (ends - sizes).repeat_interleave(sizes))
        new = _filled(owners, PADDING, self.width)
        places = _filled(positions, self.length, self.width)
        self._owners = torch.cat([self._owners, new], 1).to(self.device)
        mask = None if self._plain else self._mask(new.to(self.device), ordered=True)
        return _filled(ids, pad, self.width).to(self.device), places.to(self.device), mask, last.to(self.device)

    def step(self, going: Sequence[int], said: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """One column for each question that goes on, of which each has ``said`` words behind its own already.

        -> places (q,) in the flattened (R, n) of the next words, positions (R, n) and the mask (R, 1, n, columns).
        """
        filled = [0] * self._count
        places, position = [], self.length + self._lengths + said
        for question in going:
            row = self.rows[question]
            places.append((row, filled[row]))
            filled[row] += 1
        width = max(filled)
        chosen = torch.tensor(list(going))
        index = torch.tensor([row * width + column for row, column in places])
        new = torch.full((self._count * width,), PADDING).index_copy(0, index, chosen).view(self._count, width)
        positions = torch.full((self._count * width,), self.length).index_copy(0, index, position[chosen])
        new = new.to(self.device)
        self._owners = torch.cat([self._owners, new], 1)
        plain = self._plain and len(going) == self._count
        self._plain = plain
        mask = None if plain else self._mask(new, ordered=False)
        return index.to(self.device), positions.view(self._count, width).to(self.device), mask

    def _mask(self, new: Tensor, ordered: bool) -> Tensor:
        """(R, 1, n, columns) bool; ``ordered``: several of the new columns are of one question, one after the other."""
        owners, count = self._owners[:, None], new.shape[1]
        mask = (owners == SHARED) | (owners == new[..., None])
        if ordered:
            total = owners.shape[2]
            mask &= torch.ones(count, total, dtype=torch.bool, device=mask.device).tril(total - count)
        missing = 0 if self._capacity is None else self._capacity - mask.shape[2]
        return F.pad(mask, (0, missing))[:, None] if missing else mask[:, None]


def _filled(rows: Sequence[Tensor], value: int, width: int) -> Tensor:
    """Rows of different length as one (R, width) tensor."""
    if not rows:
        return torch.zeros(0, width, dtype=torch.long)
    return pad_sequence([*rows, torch.zeros(width, dtype=torch.long)], True, value)[:-1]
