"""Work that is done in halves where memory does not suffice for all of it at once."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

# How torch says it where it raises no error of its own kind: on CPUs, and in cuBLAS.
_WORDS = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the host or of an accelerator, was not enough."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def in_halves(
    items: Sequence[Item],
    work: Callable[[list[Item]], Iterator[Result]],
    on_halved: Callable[[list[Item]], None],
    on_single: Callable[[Item, str], Iterator[Result]],
    release: Callable[[Item], bool] = lambda _item: False,
) -> Iterator[Result]:
    """All that ``work`` yields of ``items``; of half of them at a time, and so on, where memory is not enough.

    ``work`` is called again with the halves of what it failed at, also where it had yielded something by then.

    Args:
        on_halved: told of items that were too many, before the first half of them is tried.
        on_single: what is yielded of an item for which alone memory is not enough; given what the error said.
        release: lets go of what the work at one item can do without, and says whether there was any of it. It is called
            before an item is given up, which is tried once more where there was.
    """
    # What is left, and whether it is tried once more where memory is not enough.
    todo = deque([(list(items), True)])
    while todo:
        (chunk, once_more), reason = todo.popleft(), ""
        try:
            yield from work(chunk)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0] or type(error).__name__
        if not reason:
            continue
        # Only here are the frames gone that held what had been computed.
        given_up = False
        if len(chunk) > 1:
            on_halved(chunk)
            middle = (len(chunk) + 1) // 2
            todo.extendleft([(chunk[middle:], True), (chunk[:middle], True)])
        elif once_more and release(chunk[0]):
            todo.appendleft((chunk, False))
        else:
            given_up = True
        # Behind all that was let go of: only now is it nobody's.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if given_up:
            yield from on_single(chunk[0], reason)
