"""Which tensors a run need not store: frozen ones that lie unchanged in the weight files of their part.

A part may have been frozen from a file and yet hold tensors that no file has: a mask decoder of random weights, an
adapter, what an earlier stage has taught. So the files are looked into: only what is found there is left out.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from pam_kit.checkpoints.state import tensor_names
from pam_kit.weights import read_weights, sha256

# Parts that may come from weight files, and the argument of the recipe that names them.
WEIGHT_ARGUMENTS = {"backbone": "weights", "decoder": "path"}
_EDGE = 16


@dataclass(frozen=True)
class LeftOut:
    """Tensors that stay in the files they came from.

    Attributes:
        names: of the model's state dict, and of what a part itself keeps out of it.
        files: part -> its weight files, as dicts of ``file`` (the name without its folder) and ``sha256``.
    """

    names: frozenset[str] = frozenset()
    files: dict[str, list[dict[str, str]]] = field(default_factory=dict)


def find_left_out(model: nn.Module) -> LeftOut:
    """What of the backbone and the decoder is frozen and found, value by value, in their ``weight_files``.

    Reads the files, and hashes those in which something is found. Call it while the parameters are still whole tensors
    of one process.
    """
    names: set[str] = set()
    files = {}
    for slot in WEIGHT_ARGUMENTS:
        part = getattr(model, slot)
        if part.weight_files and (found := _unchanged(part) | kept_back(part)):
            names |= {f"{slot}.{name}" for name in found}
            files[slot] = file_records(part.weight_files)
    return LeftOut(frozenset(names), files)


def file_records(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Name and SHA-256 of each file."""
    return [{"file": path.name, "sha256": sha256(path)} for path in paths]


def other_files(paths: Sequence[Path], records: list[dict[str, str]]) -> list[str]:
    """What is wrong with the files at ``paths`` if they should be those of ``records``: one line a file, or none."""
    found = file_records(paths)
    if len(found) != len(records):
        expected = ", ".join(record["file"] for record in records)
        return [f"expected {len(records)} weight files ({expected}), found {len(found)}"]
    return [
        f"{path}: expected SHA-256 {record['sha256']} (of {record['file']}), found {own['sha256']}"
        for path, own, record in zip(paths, found, records, strict=True)
        if own["sha256"] != record["sha256"]
    ]


def frozen_tensors(part: nn.Module) -> dict[str, Tensor]:
    """Entries of the part's state dict that training leaves alone. Buffers count where no parameter learns."""
    learning = {name for name, p in part.named_parameters(remove_duplicate=False) if p.requires_grad}
    parameters = {name for name, _ in part.named_parameters(remove_duplicate=False)}
    state = part.state_dict()
    quantised = _quantised(part)
    return {
        name: value
        for name, value in state.items()
        if name not in learning and (name in parameters or name in quantised or not learning)
    }


def _unchanged(part: nn.Module) -> set[str]:
    quantised = _quantised(part)
    frozen = frozen_tensors(part)
    # What was quantised on the way in has no likeness in the file, and is the same again whenever it is read.
    found = quantised & set(frozen)
    # Equal values may be chance where they are all the same; such tensors are small, and stored.
    sought = {name: value for name, value in frozen.items() if name not in found and not _is_constant(value)}
    for path in part.weight_files:
        held = defaultdict(list)
        for tensor in _tensors(read_weights(path)):
            held[tensor.shape[1:]].append(tensor)
        here = {name for name, value in sought.items() if any(_begins_with(t, value) for t in held[value.shape[1:]])}
        found |= here
        sought = {name: value for name, value in sought.items() if name not in here}
    return found


def kept_back(part: nn.Module) -> set[str]:
    """Names of parameters that the part itself keeps out of its state dict, as it may do with packed weights."""
    return tensor_names(part) - set(part.state_dict())


def _quantised(part: nn.Module) -> set[str]:
    """Names of state dict entries in which bitsandbytes keeps packed weights and what unpacks them."""
    owners = [name for name, module in part.named_modules() if type(module).__module__.startswith("bitsandbytes.")]
    prefixes = tuple(f"{name}." for name in owners)
    if not prefixes:
        return set()
    own = {name for name in part.state_dict() if name.startswith(prefixes)}
    return {name for name in own if name.rpartition(".")[2] != "bias"}


def _tensors(value) -> Iterator[Tensor]:
    """The tensors of a weight file, on whatever level its dicts hold them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _is_constant(tensor: Tensor) -> bool:
    return tensor.numel() == 0 or bool((tensor == tensor.flatten()[0]).all())


def _begins_with(held: Tensor, own: Tensor) -> bool:
    """Whether ``own`` is what its type makes of ``held`` or of its first rows: a vocabulary may have been cut."""
    if held.ndim != own.ndim or (own.ndim and len(held) < len(own)):
        return False
    rows = held[: len(own)] if own.ndim else held
    # Nearly all that differ do so at the edge; a copy of the whole is worth it for few.
    edges = [tensor.flatten()[:_EDGE].cpu().to(own.dtype) for tensor in (own, rows)]
    return torch.equal(*edges) and torch.equal(own.cpu(), rows.to(own.dtype))
