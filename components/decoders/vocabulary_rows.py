"""Logits where somebody looks at them, and nowhere else: a vocabulary has many more entries than a layer has widths."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from transformers import PreTrainedModel


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
