"""Logits where somebody looks at them, and nowhere else: a vocabulary has many more entries than a layer has widths."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

# On CPUs BLAS multiplies a few rows with a large matrix half as fast as that matrix with a few columns.
FEW_ROWS, LARGE = range(2, 33), 1 << 22
# How many uses of ``few_rows`` each projection is in, by its id; none is forgotten meanwhile.
_USES: dict[int, int] = {}
_LOCK = threading.Lock()


@contextmanager
def only_rows(model: PreTrainedModel, rows: Tensor) -> Iterator[None]:
    """Meanwhile, on this thread, ``model`` makes logits (n, V) of some positions alone; no other is ever computed.

    The rows are picked in front of the model's own vocabulary projection, so that what it does after it (scaling,
    soft-capping) stays its own.

    Args:
        rows: which of the flattened (B, L) positions: (n,) long, or (B * L,) bool.
    """
    thread = threading.get_ident()

    def pick(_module, inputs):
        return (inputs[0].flatten(0, -2)[rows],) if threading.get_ident() == thread else None

    hook = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def few_rows(model: PreTrainedModel) -> Iterator[None]:
    """Meanwhile the vocabulary projection of ``model`` is computed so that a few rows take least time on a CPU.

    Uses may overlap, also on several threads.
    """
    head = model.get_output_embeddings()
    with _LOCK:
        chosen = id(head) in _USES or _is_plain(head)
        if chosen:
            head.forward = MethodType(_projected, head)
            _USES[id(head)] = _USES.get(id(head), 0) + 1
    try:
        yield
    finally:
        with _LOCK:
            if chosen:
                _USES[id(head)] -= 1
                if not _USES[id(head)]:
                    del _USES[id(head)], head.forward


def _is_plain(head: nn.Module) -> bool:
    if type(head) is not nn.Linear or "forward" in vars(head):
        return False
    weight = head.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= LARGE


def _projected(head: nn.Linear, hidden: Tensor) -> Tensor:
    rows = hidden.reshape(-1, hidden.shape[-1])
    if len(rows) not in FEW_ROWS or rows.dtype != head.weight.dtype or torch.is_grad_enabled():
        return nn.functional.linear(hidden, head.weight, head.bias)
    product = torch.mm(head.weight, rows.t()).t().contiguous()
    return (product if head.bias is None else product + head.bias).unflatten(0, hidden.shape[:-1])
