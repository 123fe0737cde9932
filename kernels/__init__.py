"""Fast paths: one folder per operator, tensors in, tensors out. Importing it needs neither Triton nor a GPU.

An operator and its folder share a name. Here the name is the operator; what else its folder holds is imported from
there, ``from pam_kit.kernels.shuffle_project import merge_neighbours``.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from pam_kit.kernels.entries import OPERATORS

__all__ = ["mask_tail", "parallel_heads", "shuffle_project"]

if TYPE_CHECKING:
    from pam_kit.kernels.mask_tail import mask_tail
    from pam_kit.kernels.parallel_heads import parallel_heads
    from pam_kit.kernels.shuffle_project import shuffle_project


def _operator(name: str) -> property:
    """Loads on first use. Import binds a folder as an attribute, which would hide the operator: it is not kept."""

    def load(_: ModuleType):
        return getattr(import_module(f"{__name__}.{name}"), name)

    return property(load, lambda *_: None)


sys.modules[__name__].__class__ = type("Operators", (ModuleType,), {name: _operator(name) for name in OPERATORS})
