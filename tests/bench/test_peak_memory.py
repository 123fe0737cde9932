"""The peak of a piece of work: beyond what was held before, and of that work alone."""

import os
import subprocess
import sys

import pytest

from pam_kit.bench import peak_memory
from pam_kit.bench.peak_memory import PeakMemory
from pam_kit.errors import PamKitError


def test_what_was_held_and_given_back_before_is_forgotten():
    """In a process of its own: here, freed memory lies about, which a block may get without the peak's moving."""
    code = (
        "import torch; from pam_kit.bench.peak_memory import PeakMemory\n"
        "torch.ones(30_000_000)\n"
        "with PeakMemory() as memory: block = torch.ones(10_000_000); del block\n"
        "print(memory.more, memory.held)"
    )
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    more, held = map(int, done.stdout.split())
    assert 35e6 < more < 60e6 and held > 100e6


def test_a_peak_too_small_to_be_seen_is_none(monkeypatch):
    """The kernel counts pages in batches, so that its highest value may lie a little below what was held."""
    sizes = {"VmRSS": 10_000_000, "VmHWM": 9_991_808}
    monkeypatch.setattr(peak_memory, "_status", sizes.__getitem__)
    with PeakMemory() as memory:
        pass
    assert (memory.held, memory.more) == (10_000_000, 0)


def test_where_no_peak_can_be_read_that_is_told(monkeypatch):
    def refused(name):
        raise PermissionError("not permitted")

    monkeypatch.setattr(peak_memory, "_status", refused)
    with pytest.raises(PamKitError, match="cannot be measured here .not permitted.: that needs Linux"), PeakMemory():
        pass
