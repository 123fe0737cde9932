"""What is measured of an operator: inputs of real sizes, its implementations, and what the fused one moves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from pam_kit.kernels.counting import Launch
from pam_kit.kernels.entries import OPERATORS

Function = Callable[..., Any]
# The implementations of a case, by name. `compiled` is torch.compile of `view` and needs no entry.
PROVIDERS = ("eager", "view", "compiled", "triton")


@dataclass(frozen=True)
class Case:
    """One size of one operator.

    Args:
        operator: name of the operator's folder.
        name: what distinguishes the case, for example ``PAM r=2, 16 regions``.
        inputs: ``inputs(device, dtype)`` -> the arguments, seeded; also on the meta device.
        providers: ``eager``, as the model was published; ``view``, the torch path of this kit; ``triton``.
        forward: what the fused forward pass launches, by formula, in bfloat16.
        backward: what the fused backward pass launches; None for an operator that is for inference.
        kept: bytes that the fused operator keeps for its backward pass beside its inputs.
        regions: divides the figures of the tables.
        note: what fusion brings here and what it cannot, in a few sentences, for the document of the roofline.
    """

    operator: str
    name: str
    inputs: Callable[[torch.device | str, torch.dtype], tuple[Any, ...]]
    providers: Mapping[str, Function]
    forward: Sequence[Launch]
    backward: Sequence[Launch] | None = None
    kept: int = 0
    regions: int = 1
    note: str = ""


def cases(operators: Sequence[str] = OPERATORS) -> list[Case]:
    """The cases of these operators; each operator's folder has a function ``cases``."""
    return [case for name in operators for case in import_module(f"pam_kit.kernels.{name}").cases()]
