"""What is done to a model's layers ahead of the first step: recomputed, then compiled, then sharded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

import torch
from lightning import LightningModule
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.utils.checkpoint import checkpoint

from pam_kit.contracts import Decoder
from pam_kit.errors import RecipeError
from pam_kit.model import RegionVLM
from pam_kit.sections import TrainSection
from pam_kit.training.strategies import has_idle_parts


def prepare_layers(task: LightningModule, model: RegionVLM, section: TrainSection) -> None:
    """What the recipe asks for, in the only order that works. ``task`` owns ``model``; where its strategy shards, it
    has a device mesh."""
    if section.activation_checkpointing:
        recompute_layers(model.decoder)
    compile_parts(model, section.compile)
    if task.device_mesh is not None:
        shard(task, model, task.device_mesh["data_parallel"], zero_fill=not has_idle_parts(section))


def recompute_layers(decoder: Decoder) -> None:
    """Let each layer of the decoder forget what it computed and compute it again in the backward pass.

    So it does whenever gradients are recorded, also in a frozen decoder in eval mode, through which the parts ahead of
    it learn. Losses and gradients stay the same to the last bit, and parameters keep their names.
    """
    for layer in decoder.layers():
        layer.forward = _recomputed(layer.forward)


def _recomputed(forward: Callable) -> Callable:
    @wraps(forward)
    def recomputed(*args, **kwargs):
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return recomputed


def compile_parts(model: RegionVLM, names: list[str]) -> None:
    """Compile the named parts when they are first used; of the decoder each layer by itself, so that one piece of code
    serves all of them. Parameters keep their names."""
    for name in names:
        for module in model.decoder.layers() if name == "decoder" else [getattr(model, name)]:
            module.compile()


def shard(task: LightningModule, model: RegionVLM, mesh: DeviceMesh, zero_fill: bool = True) -> None:
    """Spread parameters, gradients and optimiser states over the devices of ``mesh`` (FSDP2).

    Each layer of the decoder is gathered when it runs and let go behind it. All else is gathered once for a whole
    training step: how often a step visits the perceiver or the word embeddings depends on its clips and questions,
    which differ between devices, and a gathering that one device skips would block the others for ever. A frozen
    backbone stays whole on every device: it has no gradient to share, and gathering it every step would cost more time
    than its memory is worth.

    Args:
        task: owns ``model`` and visits it in ``training_step``.
        zero_fill: a parameter without a gradient on this device counts as one with a gradient of zero, since it may
            have one elsewhere. Parts that have not joined yet would be decayed by that.

    Raises:
        RecipeError: the parts that learn are not of one precision.
    """
    _refuse_mixed_dtypes(model)
    model.decoder.one_pass = True
    for layer in model.decoder.layers():
        fully_shard(layer, mesh=mesh)
    frozen = not any(parameter.requires_grad for parameter in model.backbone.parameters())
    fully_shard(
        task,
        mesh=mesh,
        reshard_after_forward=False,
        ignored_params=set(model.backbone.parameters()) if frozen else None,
    )
    task.set_reduce_scatter_unused_params(zero_fill)
    register_fsdp_forward_method(task, "training_step")


@contextmanager
def gathered(task: nn.Module) -> Iterator[None]:
    """All parameters are whole on every device meanwhile, so that the model can be used outside a training step, by
    some of the processes only or by each in its own way. Every process of the run enters and leaves; without sharding
    nothing happens."""
    sharded = [module for module in task.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.unshard()
        module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for module in sharded:
            module.set_reshard_after_forward(module is not sharded[0], recurse=False)
        if sharded:
            # A process that has used the model remembers the order of its layers and would gather them once more.
            sharded[0].reset_iter_state()


def _refuse_mixed_dtypes(model: RegionVLM) -> None:
    learning = {name: {p.dtype for p in part.parameters() if p.requires_grad} for name, part in model.named_children()}
    if len(set().union(*learning.values())) > 1:
        found = ", ".join(f"{name} {'/'.join(map(str, dtypes))}" for name, dtypes in learning.items() if dtypes)
        raise RecipeError(
            [f"strategy fsdp2 needs all that learns in one precision, not {found}; set decoder.dtype=float32"]
        )
