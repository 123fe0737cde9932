"""Whether an operator computes here what it should: the gate ahead of its benchmark."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from pam_kit.kernels.cases import Case

# A fused result may be this much farther from float64 than torch's own in the same type, and off by a rounding anyway:
# a count by the few values that lie at the threshold. The derivative by a weight is a sum over 65,536 rows, which
# another order moves by some 4e-6 in float32 (seen on an H100).
SLACK, ROUNDING, AT_THE_THRESHOLD = 1.2, 5e-6, 1e-3


class WrongResults(Exception):
    """The correctness gate of an operator is red; the message says by how much."""


def gate(case: Case, device: torch.device | str, dtype: torch.dtype) -> None:
    """Compare ``triton``, its derivatives among it, with ``view`` in float64.

    Raises:
        WrongResults: it is farther off than ``view`` in ``dtype`` by more than a fifth.
    """
    inputs = case.inputs(device, dtype)
    exact = _results(case, "view", tuple(_to(value, torch.float64) for value in inputs))
    plain, fused = (_results(case, provider, inputs) for provider in ("view", "triton"))
    for number, (wanted, usual, value) in enumerate(zip(exact, plain, fused, strict=True)):
        always = ROUNDING if wanted.is_floating_point() else AT_THE_THRESHOLD
        allowed, found = SLACK * _error(usual, wanted) + always, _error(value, wanted)
        if not found <= allowed:
            raise WrongResults(
                f"{case.operator}, {case.name}: result {number} is off by {found:.2g} of its size, {allowed:.2g} is "
                "allowed; run its tests before its benchmark"
            )


def _results(case: Case, provider: str, inputs: tuple[Any, ...]) -> list[Tensor]:
    """What comes out, and where the fused operator has derivatives, those of the sum of squares."""
    inputs = tuple(value.detach().requires_grad_(bool(case.backward)) if is_float(value) else value for value in inputs)
    out = [value for value in tree_leaves(case.providers[provider](*inputs)) if isinstance(value, Tensor)]
    if not case.backward:
        return out
    loss = sum(value.double().square().mean() for value in out if value.requires_grad)
    return [*out, *torch.autograd.grad(loss, [value for value in inputs if is_float(value)])]


def _error(value: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference, relative to what is wanted."""
    wanted = wanted.double()
    return ((value.double() - wanted).square().mean().sqrt() / wanted.square().mean().sqrt().clamp_min(1e-30)).item()


def is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _to(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if is_float(value) else value
