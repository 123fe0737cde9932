"""The most memory that a piece of work takes beside what was held before it: of a CUDA device, else of the process.

A process's peak is the kernel's VmHWM, reset ahead of the work; ``ru_maxrss`` cannot be reset, and counts what the
process was started from.
"""

import ctypes
from pathlib import Path

import torch

from pam_kit.errors import PamKitError

# Of mallopt: above which size a freed block goes back to the system at once, and how much may stay free at the end.
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1


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


def reset_peak(device: torch.device | str = "cpu") -> int:
    """Forget the highest memory use so far; returns the present one, in bytes."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError as error:
        raise PamKitError(
            f"peak memory cannot be measured here ({error}): that needs Linux, and leave to write /proc/self/clear_refs"
        ) from error


def peak(device: torch.device | str = "cpu") -> int:
    """The highest memory use since ``reset_peak``, in bytes."""
    return torch.cuda.max_memory_allocated(device) if torch.device(device).type == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    """A memory entry of /proc/self/status, in bytes: VmRSS the present resident memory, VmHWM its highest value."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
