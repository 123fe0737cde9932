"""Which part of a long run a process does, where several processes or machines share it. Torch-free."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pam_kit.errors import PamKitError

Item = TypeVar("Item")

# What launchers call the number of a process and of all: torchrun and Lightning, SLURM, Open MPI.
_LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)


@dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``count``, counted from 1.

    Raises PamKitError for a part that is not there.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self):
        if not 1 <= self.number <= self.count:
            raise PamKitError(f"there is no part {self.number} of {self.count}; parts are 1/{self.count} and on")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Shard":
        """That of this process where torchrun, SLURM or MPI started several; else the whole."""
        for rank, world in _LAUNCHERS:
            if rank in environment and world in environment:
                return cls(int(environment[rank]) + 1, int(environment[world]))
        return cls()

    @property
    def file_name(self) -> str:
        """What the file is called that this part writes its lines to."""
        return f"part_{self.number}_of_{self.count}.jsonl"

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Every ``count``-th item."""
        return list(items[self.number - 1 :: self.count])

    def owner(self, index: int) -> "Shard":
        """The part that item number ``index`` belongs to."""
        return Shard(index % self.count + 1, self.count)


# What all parts of a run are called.
PART_FILES = "part_*_of_*.jsonl"
