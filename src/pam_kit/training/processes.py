"""The processes of a run: which one speaks and writes, and how the others learn what it decided.

Lightning starts the processes of one machine itself; torchrun, SLURM and other launchers start each of them alone.
"""

import os
from collections.abc import Callable
from functools import cache
from itertools import count

import torch
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed import PrefixStore, Store, rendezvous

from pam_kit.errors import RecipeError
from pam_kit.sections import TrainSection

# The order in which Lightning looks for them.
_LAUNCHERS = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment)
_DECISION = "PAM_KIT_DECISION"
_decisions = count()


def is_first_process() -> bool:
    """Whether this is the process of a distributed run that speaks and writes; true in a run of one process."""
    launcher = _launcher()
    return (launcher.global_rank() if launcher else rank_zero_only.rank) == 0


def said_once(say: Callable[[str], None]) -> Callable[[str], None]:
    """``say`` in the first process of a run; in the others, what says nothing."""
    return say if is_first_process() else lambda _text: None


def refuse_lonely_nodes(section: TrainSection) -> None:
    """RecipeError where several machines are asked for, but nothing started a process on each of them."""
    if section.num_nodes > 1 and _launcher() is None:
        raise RecipeError(
            [f"train.num_nodes={section.num_nodes} needs what starts processes on every node: torchrun or srun"]
        )


def decided_by_first(decide: Callable[[], str]) -> str:
    """What ``decide`` says in the first process; the others do not call it. Every process of the run asks, in the same
    order; the processes need not be connected yet."""
    if torch.distributed.is_initialized():
        word = [decide() if torch.distributed.get_rank() == 0 else ""]
        torch.distributed.broadcast_object_list(word)
        return word[0]
    variable = f"{_DECISION}_{next(_decisions)}"
    launcher = _launcher()
    if launcher is None:
        # Processes that Lightning starts run the same program again and inherit the environment of the first one.
        if is_first_process():
            os.environ[variable] = decide()
        return os.environ[variable]
    if launcher.world_size() == 1:
        return decide()
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = launcher.main_address, str(launcher.main_port)
    store = _store(launcher.global_rank(), launcher.world_size())
    if launcher.global_rank() == 0:
        store.set(variable, decide())
    return store.get(variable).decode()


def _launcher() -> ClusterEnvironment | None:
    for kind in _LAUNCHERS:
        if kind.detect():
            return kind()
    return None


# Kept: with the last reference to it in the first process, the store ends, perhaps before the others have read it.
@cache
def _store(rank: int, world_size: int) -> Store:
    """The key-value store through which the processes will connect later on; the first one serves it, or torchrun."""
    store, _, _ = next(rendezvous("env://", rank, world_size))
    # A restarted run meets the decisions of the former one in torchrun's store.
    return PrefixStore(f"pam_kit/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
