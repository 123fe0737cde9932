"""Tests that call Triton kernels on a CPU. Triton reads TRITON_INTERPRET on import, so they have their own process.

``tests/kernels/test_interpreted.py`` starts it; by hand: ``TRITON_INTERPRET=1 pytest tests/kernels/interpreted``.
"""

import os

import pytest

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
BAND = 512


@pytest.fixture
def poisoned():
    """``poisoned(tensor)`` -> its values amid NaN: whatever is read beside them spoils the result."""
    import torch

    def surround(tensor: torch.Tensor) -> torch.Tensor:
        buffer = tensor.new_full((tensor.numel() + 2 * BAND,), float("nan"))
        inside = buffer[BAND:-BAND].view(tensor.shape)
        return inside.copy_(tensor.detach())

    return surround


@pytest.fixture
def guarded():
    """``with guarded(): ...``: every new tensor of floating point is NaN amid NaN, and nothing is written beside it."""
    from contextlib import contextmanager

    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    aten = torch.ops.aten

    class Guards(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.buffers = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            makes = (aten.new_empty.default, aten.empty_like.default, aten.empty.memory_format, aten.new_zeros.default)
            if function not in makes or not out.is_floating_point():
                return out
            buffer = out.new_full((out.numel() + 2 * BAND,), float("nan"))
            self.buffers.append(buffer)
            inside = buffer[BAND:-BAND].view(out.shape)
            return inside.zero_() if function is aten.new_zeros.default else inside

    @contextmanager
    def watch():
        with Guards() as guards:
            yield
        assert guards.buffers, "no tensor was made"
        for buffer in guards.buffers:
            assert buffer[:BAND].isnan().all() and buffer[-BAND:].isnan().all(), "written outside a tensor"

    return watch
