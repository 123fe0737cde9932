"""How many kernels a function launches, what they read, write and compute, and what it keeps for its backward pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# These allocate or describe; no kernel runs.
FREE = {
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "_unsafe_view",
    "detach",
    "lift_fresh",
}


@dataclass(frozen=True)
class Launch:
    """One kernel on the device: bytes read and written once each, floating point operations (2 a multiply-add)."""

    name: str
    bytes: int
    flops: int = 0


class Recorder(TorchDispatchMode):
    """Notes a ``Launch`` for each operation that is not a view; one operation is taken for one kernel."""

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry  # imports Triton where it is installed

        super().__init__()
        self.flops = flop_registry
        self.launches: list[Launch] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.overloadpacket not in self.flops:
            # In inference mode an operation that is made of others comes as a whole.
            with self:
                parts = function.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = function(*args, **kwargs)
        name = function.overloadpacket.__name__
        if not function.is_view and name not in FREE:
            moved = sum(map(_bytes, {id(leaf): leaf for leaf in tree_leaves((args, kwargs, out))}.values()))
            self.launches.append(Launch(name, moved, self._computed(function.overloadpacket, args, kwargs, out)))
        return out

    def _computed(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
        formula = self.flops.get(operation)
        if formula is None:
            return 0
        if "scaled_dot_product" in operation.__name__:
            args = _with_all_heads(args, first=int(operation.__name__.endswith("backward")))
        return formula(*args, **kwargs, out_val=out)


def launches(function: Callable[..., Any], *inputs: Any) -> list[Launch]:
    """The kernels that ``function(*inputs)`` launches. Inputs on the meta device cost neither time nor memory."""
    with Recorder() as recorder:
        function(*inputs)
    return recorder.launches


def passes(function: Callable[..., Any], *inputs: Any) -> tuple[list[Launch], list[Launch]]:
    """The kernels of the forward and of the backward pass to every input that is of floating point."""
    inputs = tuple(_leaf(value) for value in inputs)
    with Recorder() as forward:
        outputs = [out for out in tree_leaves(function(*inputs)) if isinstance(out, Tensor) and out.requires_grad]
    gradients = [torch.empty_like(out) for out in outputs]
    with Recorder() as backward:
        torch.autograd.backward(outputs, gradients)
    return forward.launches, backward.launches


def kept_bytes(function: Callable[..., Any], *inputs: Any) -> int:
    """Bytes that ``function`` keeps for its backward pass beside its inputs, each storage once."""
    inputs = tuple(_leaf(value) for value in inputs)
    kept = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = function(*inputs)
    given = {leaf.untyped_storage()._cdata for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)}
    del out
    return sum(tensor.untyped_storage().nbytes() for storage, tensor in kept.items() if storage not in given)


def _with_all_heads(args: tuple[Any, ...], first: int) -> tuple[Any, ...]:
    """Queries, keys and values from ``first`` on, with a key and a value head for each query head.

    A head of keys that several heads of queries share is multiplied with each of them; torch's formula knows no such
    groups.
    """
    query, key, value = args[first : first + 3]
    described = (torch.empty_like(shared, device="meta") for shared in (key, value))
    repeated = (shared.repeat_interleave(query.shape[1] // shared.shape[1], 1) for shared in described)
    return *args[:first], query, *repeated, *args[first + 3 :]


def _leaf(value: Any) -> Any:
    """A tensor that stands at the start of a graph."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().requires_grad_(value.is_floating_point())


def _bytes(value: Any) -> int:
    """Bytes of a tensor, an expanded one counted as what lies in memory."""
    if not isinstance(value, Tensor):
        return 0
    return min(value.numel() * value.itemsize, value.untyped_storage().nbytes())
