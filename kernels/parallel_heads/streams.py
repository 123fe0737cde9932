"""Work that does not wait for other work, on a stream of its own."""

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

A = TypeVar("A")
B = TypeVar("B")


def beside(main: Callable[[], A], side: Callable[[], B], device: torch.device) -> tuple[A, B]:
    """The results of both; on a CUDA device ``side`` runs on a second stream while ``main`` runs on the current one.

    Neither may write what the other reads. Elsewhere, and under torch.compile, they run one after the other.
    """
    if device.type != "cuda" or torch.compiler.is_compiling():
        return main(), side()
    current, second = torch.cuda.current_stream(device), _second_stream(device.index)
    second.wait_stream(current)
    with torch.cuda.stream(second):
        found = side()
    result = main()
    current.wait_stream(second)
    for leaf in tree_leaves(found):
        if isinstance(leaf, Tensor):
            # The allocator must not hand its memory out before the current stream is done with it.
            leaf.record_stream(current)
    return result, found


@cache
def _second_stream(index: int | None) -> "torch.cuda.Stream":
    return torch.cuda.Stream(index)
