"""Whether tensors read from a file fill a module exactly."""

from torch import Tensor


def misfits(own: dict[str, Tensor], given: dict[str, Tensor]) -> list[str]:
    """One line for every tensor that is missing, unknown or of another shape."""
    missing = [f"missing: {name}" for name in own if name not in given]
    unknown = [f"unknown: {name}" for name in given if name not in own]
    reshaped = [
        f"of another shape: {name} is {tuple(given[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in given and given[name].shape != tensor.shape
    ]
    return missing + unknown + reshaped
