"""Which implementation of an operator runs: Triton or plain torch."""

import logging
import os
from functools import cache
from importlib.util import find_spec
from typing import Literal, get_args

import torch

Kernels = Literal["auto", "triton", "torch"]
MIN_CAPABILITY = (8, 0)
# Operators whose kernels torch's own path outruns on the cards measured so far: docs/kernels_measured.md.
SLOWER_THAN_TORCH = frozenset({"shuffle_project"})

log = logging.getLogger("pam_kit.kernels")


def backend(kernels: Kernels, device: torch.device, operator: str) -> Literal["triton", "torch"]:
    """The implementation of ``operator`` on ``device``; the first time a run, the log says which and why.

    ``auto`` is Triton on a CUDA device of compute capability 8.0 or more, and torch elsewhere and for an operator whose
    kernels have not been the faster ones where they were measured. Triton on a CPU is its interpreter, which has to be
    switched on before Triton is imported.

    Raises:
        ValueError: ``kernels`` is none of ``auto``, ``triton`` and ``torch``.
        RuntimeError: ``triton`` was asked for where it cannot run; the message says what to do.
    """
    if kernels not in get_args(Kernels):
        raise ValueError(f"kernels is {kernels!r}; choose one of {', '.join(get_args(Kernels))}")
    if kernels == "torch":
        return "torch"
    if kernels == "auto" and (device.type == "cpu" or operator in SLOWER_THAN_TORCH):
        if not torch.compiler.is_compiling():
            say_once(f"{operator} on {device}: plain torch", logging.INFO)
        return "torch"
    obstacle = _obstacle(device.type, device.index)
    if kernels == "triton" and obstacle:
        raise RuntimeError(f"kernels=triton, but {operator} cannot run there: {obstacle}; choose kernels=auto or torch")
    if not torch.compiler.is_compiling():
        say_once(f"{operator} on {device}: " + (f"plain torch, since {obstacle}" if obstacle else "Triton kernels"))
    return "torch" if obstacle else "triton"


def interpreting() -> bool:
    """Whether Triton's interpreter is switched on; Triton reads the variable when a kernel is defined."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def say_once(message: str, level: int = logging.WARNING) -> None:
    """Log a message, as a warning so that it is seen without a set-up; the same only once a run."""
    log.log(level, message)


def _obstacle(kind: str, index: int | None) -> str:
    """Why Triton kernels cannot run on this device; empty where they can."""
    if find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    if kind == "cpu":
        return "" if interpreting() else "a CPU has only Triton's interpreter (set TRITON_INTERPRET=1 before the start)"
    if kind != "cuda":
        return f"a device of type {kind} has no Triton kernels"
    capability = torch.cuda.get_device_capability(index)
    if capability < MIN_CAPABILITY:
        return f"compute capability {capability[0]}.{capability[1]} is below 8.0"
    return ""


# What torch.compile would otherwise trace: it is called while compiling, and its answer is taken for a constant.
_obstacle._dynamo_marked_constant = True  # type: ignore[attr-defined]
