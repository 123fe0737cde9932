"""How a run is spread over devices: a name in the recipe becomes one of Lightning's strategies."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy, StrategyRegistry
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from pam_kit.errors import MissingPackageError, RecipeError
from pam_kit.registry import suggest
from pam_kit.sections import TrainSection

FSDP2 = "fsdp2"
FSDP2_PRECISIONS = ("auto", "32-true", "bf16-mixed", "bf16-true", "16-true")


class FullyShardedStrategy(ModelParallelStrategy):
    """Every device holds its share of the parameters, gradients and optimiser states (FSDP2, arXiv 2304.11277).

    ``RegionTrainer.configure_model`` says what is sharded with what. A checkpoint is one file, the same that any other
    strategy writes, and each resumes the others'.
    """

    def __init__(self):
        super().__init__(save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.world_size, 1
        super().setup_environment()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state in the first process, nothing in the others; parameters are numbered in the order of their
        groups, as an optimiser itself does it, while Lightning counts in the order of the module."""
        optimizer = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_optimizer_state_dict(self.model, optimizer, options=options)
        return _renamed(state, _numbers(state).__getitem__) if state else state

    def load_checkpoint(self, checkpoint_path: Path | str, weights_only: bool | None = None) -> dict[str, Any]:
        """Every process takes its share of the weights and of the optimiser's state from the file; returns the rest."""
        path = self.broadcast(checkpoint_path)
        checkpoint = torch.load(path, mmap=True, map_location="cpu", weights_only=weights_only)
        options = StateDictOptions(full_state_dict=True, strict=self.lightning_module.strict_loading)
        set_model_state_dict(self.model, checkpoint.pop("state_dict"), options=options)
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
            set_optimizer_state_dict(self.model, optimizer, _renamed(state, order.__getitem__), options=options)
        return checkpoint


def _numbers(state: dict[str, Any]) -> dict[str, int]:
    names = [name for group in state["param_groups"] for name in group["params"]]
    return {name: number for number, name in enumerate(names)}


def _renamed(state: dict[str, Any], rename: Callable[[Any], Any]) -> dict[str, Any]:
    """An optimiser's state whose parameters go by other names."""
    groups = [group | {"params": [rename(name) for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {rename(name): value for name, value in state["state"].items()}, "param_groups": groups}


def make_strategy(section: TrainSection) -> str | Strategy:
    """What ``train.strategy`` names: a strategy of ours, or a name that Lightning knows.

    Raises:
        RecipeError: there is no such strategy, or it cannot do what else the recipe asks for.
        MissingPackageError: DeepSpeed is named and not installed.
    """
    name = section.strategy.lower()
    valid = sorted({"auto", FSDP2, *StrategyRegistry.available_strategies()})
    if name not in valid:
        raise RecipeError(
            [f"train.strategy: unknown strategy {section.strategy!r}{suggest(name, valid, 'the strategies are')}"]
        )
    if name.startswith("deepspeed") and find_spec("deepspeed") is None:
        raise MissingPackageError(
            f"train.strategy={name} needs DeepSpeed: pip install 'pam-kit[deepspeed]'. "
            "Without it, fsdp2 shards parameters, gradients and optimiser states as well"
        )
    if name == FSDP2:
        return _fully_sharded(section)
    if name == "ddp" or (name == "auto" and _several_devices(section)):
        # The graph is not static: what an answer's length, a clip and a missing mask leave out differs by step.
        return DDPStrategy(find_unused_parameters=has_idle_parts(section), gradient_as_bucket_view=True)
    return name


def has_idle_parts(section: TrainSection) -> bool:
    """Whether there are steps in which a part that learns gets no gradient on any device: it joins later, or no text is
    learned, from which alone some of the projector's gradients come."""
    return any(section.join_at.values()) or not section.loss.text


def _fully_sharded(section: TrainSection) -> Strategy:
    if section.precision not in FSDP2_PRECISIONS:
        raise RecipeError(
            [
                f"train.precision={section.precision} cannot be sharded: strategy {FSDP2} has no gradient scaler; "
                f"choose one of {', '.join(FSDP2_PRECISIONS)}"
            ]
        )
    return FullyShardedStrategy()


def _several_devices(section: TrainSection) -> bool:
    if section.num_nodes > 1:
        return True
    named = str(section.devices)
    if named.isdigit():
        return int(named) > 1
    if named in ("auto", "-1"):
        return section.accelerator in ("auto", "gpu", "cuda") and torch.cuda.device_count() > 1
    return "," in named.strip(",")
