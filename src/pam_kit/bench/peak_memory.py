"""The most memory that a piece of work takes beside what was held before it: of a CUDA device, else of the process."""

import ctypes
from pathlib import Path
from typing import Self

import torch

from pam_kit.errors import PamKitError

# Of mallopt: above which size a freed block goes back to the system at once, and how much may stay free at the end.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1


class PeakMemory:
    """The peak of what is done within it. A context manager.

    A process's peak is the kernel's VmHWM, reset ahead of the work; ``ru_maxrss`` cannot be reset, and counts what the
    process was started from.

    Attributes:
        held: bytes held before.
        more: bytes beyond those at the peak. The kernel counts a process's pages in batches: a few of them are too few
            to be seen.

    Args:
        device: whose memory; of any but a CUDA device it is that of the process.

    Raises:
        PamKitError: this is no Linux, or the peak may not be reset here.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self._device = torch.device(device)
        self.held = self.more = 0

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self.held = torch.cuda.memory_allocated(self._device)
            return self
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self.held = _status("VmRSS")
        except OSError as error:
            raise PamKitError(
                f"peak memory cannot be measured here ({error}): that needs Linux, and leave to write "
                "/proc/self/clear_refs"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        of_cuda = self._device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self._device) if of_cuda else _status("VmHWM")
        self.more = max(0, peak - self.held)


def give_back_freed(block: int = 2**20) -> None:
    """From now on freed memory goes back to the system, so that resident memory is memory in use.

    Left to itself, glibc keeps ever larger freed blocks, up to 32 MiB. That costs no time, giving back does: what is
    timed is timed before. Other C libraries are left as they are.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and hasattr(library, "malloc_trim"):
        library.mallopt(_MMAP_THRESHOLD, block)
        library.mallopt(_TRIM_THRESHOLD, block)
        library.malloc_trim(0)


def _status(name: str) -> int:
    """A memory entry of /proc/self/status, in bytes: VmRSS the present resident memory, VmHWM its highest value."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
