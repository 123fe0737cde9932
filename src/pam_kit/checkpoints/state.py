"""State dicts: whole ones of sharded models, each tensor once, and what is missing where one is filled in."""

from collections import defaultdict
from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def full_state(model: nn.Module, leave_out: Collection[str] = (), keep: bool = True) -> dict[str, Tensor]:
    """The model's state dict on the CPU, without the names ``leave_out``; a tensor of several names stands there once.

    Shards are put together one tensor after the other, so in a run whose parameters are sharded every process calls
    this; those that do not ``keep`` the result get an empty dict.
    """
    state, seen = {}, set()
    for name, value in model.state_dict(keep_vars=True).items():
        if name in leave_out or id(value) in seen:
            continue
        seen.add(id(value))
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            state[name] = whole.detach().cpu().contiguous()
    return state


def tensor_names(module: nn.Module) -> set[str]:
    """Names of parameters and of entries of the state dict, from which a part may keep packed weights back."""
    return set(twins(module))


def twins(module: nn.Module) -> dict[str, set[str]]:
    """name -> all names of the same tensor, its own among them; a file stores such a tensor once."""
    tensors = dict(module.named_parameters(remove_duplicate=False)) | module.state_dict(keep_vars=True)
    names: dict[int, set[str]] = defaultdict(set)
    for name, value in tensors.items():
        names[id(value)].add(name)
    return {name: names[id(value)] for name, value in tensors.items()}


def missing_names(module: nn.Module, given: Collection[str]) -> list[str]:
    """Names of ``tensor_names`` that are not given, under another name of the same tensor neither."""
    return [name for name, same in twins(module).items() if same.isdisjoint(given)]


def shortened(names: Iterable[str]) -> str:
    """The first five, for an error message."""
    names = list(names)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(map(str, names[:5])) + more) or "none"
