"""Checkpoints of a run that may be killed at any moment: written whole or not at all, small, and enough to go on from.

What happens in a step is a function of the seed, the process and the position in the training data, so the position is
all the randomness there is to store.
"""

import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint

from pam_kit.atomic_files import DRAFT, whole_file
from pam_kit.checkpoints import LeftOut

KEPT = 2
# Where this kit's own facts stand in a checkpoint.
FACTS = "pam_kit"
# The model's place in the module that Lightning trains.
MODEL = "model."


class AtomicCheckpointIO(CheckpointIO):
    """Files that are there whole or not at all, also after a power cut, and that are read without unpickling."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path, storage_options=None) -> None:
        with whole_file(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path, map_location=None, weights_only: bool | None = True) -> dict[str, Any]:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path) -> None:
        Path(path).unlink(missing_ok=True)


@dataclass
class RunFacts:
    """What a checkpoint says beside weights, optimiser and schedule.

    Attributes:
        recipe: the resolved recipe as YAML.
        max_steps: the run's length in optimiser steps.
        left_out: which tensors are not in the checkpoint, and the files they are in.
        position: samples drawn so far, over all processes.
    """

    recipe: str
    max_steps: int
    left_out: LeftOut
    position: int = 0

    def to_plain(self) -> dict[str, Any]:
        plain = asdict(self)
        plain["left_out"]["names"] = sorted(self.left_out.names)
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "RunFacts":
        left_out = LeftOut(frozenset(plain["left_out"]["names"]), plain["left_out"]["files"])
        return cls(**plain | {"left_out": left_out})


class DataPosition(Callback):
    """Knows how far the run is in its training data and makes the randomness of each step follow from it.

    Args:
        seed: the recipe's.
        facts: whose ``position`` is kept up to date.
        samples: of a micro-batch, on one device.
    """

    def __init__(self, seed: int, facts: RunFacts, samples: int):
        self.seed, self.facts, self.samples = seed, facts, samples

    def on_train_batch_start(self, trainer, module, packet, index):
        seed_from(self.seed, trainer.global_rank, self.facts.position)

    def on_train_batch_end(self, trainer, module, outputs, packet, index):
        self.facts.position += self.samples * trainer.world_size


class RunCheckpoints(Checkpoint):
    """Writes ``checkpoints/step=N.ckpt`` every so many optimiser steps and at the end, and keeps the last two.

    Args:
        folder: the run folder.
        every: optimiser steps; None: only at the end.
        facts: what else is written; DataPosition keeps them up to date.
    """

    def __init__(self, folder: Path, every: int | None, facts: RunFacts):
        self.folder, self.every, self.facts = folder / "checkpoints", every, facts
        self._saved = 0

    def on_fit_start(self, trainer, module):
        self.folder = trainer.strategy.broadcast(self.folder)
        # The first process alone has looked into the weight files.
        self.facts.left_out = trainer.strategy.broadcast(self.facts.left_out)
        self._saved = trainer.global_step
        if trainer.is_global_zero:
            # A writer that was killed left them.
            for draft in self.folder.glob(f"*.ckpt{DRAFT}"):
                draft.unlink()

    def on_train_batch_end(self, trainer, module, outputs, packet, index):
        step = trainer.global_step
        due = step == trainer.max_steps or bool(self.every and step % self.every == 0)
        if step == self._saved or not due:
            return
        self._saved = step
        trainer.save_checkpoint(self.folder / f"step={step}.ckpt")
        if trainer.is_global_zero:
            self._remove_all_but_the_last(step)

    def on_save_checkpoint(self, trainer, module, checkpoint):
        weights = checkpoint["state_dict"]
        for name in self.facts.left_out.names:
            weights.pop(MODEL + name, None)
        checkpoint[FACTS] = self.facts.to_plain()

    def on_load_checkpoint(self, trainer, module, checkpoint):
        """Count micro-batches as this run makes them up, which may be on other devices than before."""
        batches = checkpoint["global_step"] * trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for count in (progress["total"], progress["current"]):
            count |= {"ready": batches, "started": batches, "processed": batches, "completed": batches - 1}

    def _remove_all_but_the_last(self, step: int) -> None:
        """Later ones than ``step`` are damaged, or this run would not have gone back before them."""
        files = by_step(self.folder)
        kept = [file for file in files if _step(file) <= step][-KEPT:]
        for file in files:
            if file not in kept:
                file.unlink()


def seed_from(seed: int, rank: int, position: int) -> None:
    """Seed torch, numpy and random with a number that follows from the three."""
    words = np.random.SeedSequence([seed, rank, position]).generate_state(3, np.uint32)
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))
    np.random.seed(words[2])
    random.seed(int(words[2]))


def by_step(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, the oldest first."""
    return sorted(folder.glob("step=*.ckpt"), key=_step)


def _step(file: Path) -> int:
    return int(file.stem.removeprefix("step="))
