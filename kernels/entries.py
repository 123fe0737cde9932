"""The configuration table of an operator: which kernels are compiled, and what they may cost. Needs no Triton."""

from collections.abc import Mapping
from dataclasses import dataclass, field

OPERATORS = ("shuffle_project", "parallel_heads", "mask_tail")
CAPABILITIES = (80, 89, 90, 100)


@dataclass(frozen=True)
class Entry:
    """One kernel with one set of constants.

    Args:
        operator: name of the operator's folder.
        name: what distinguishes the entry, for example ``forward bf16 128x128x64``.
        kernel: ``module:function``; imported when it is compiled.
        arguments: a value for each argument that is no constant, as at a call: ``"*bf16"`` for an aligned pointer, an
            integer or a float for a scalar. Triton specialises on 1 and on multiples of 16, so take real sizes.
        constants: the ``tl.constexpr`` arguments.
        capabilities: compute capabilities it is meant for, 80 for 8.0.
        checked: those among them that the default test run compiles.
        tensor_cores: whether there must be matrix instructions.
        min_vector_loads: least number of loads of 128 bits or asynchronous copies.
        max_scalar_loads: most global loads of 32 bits or fewer; where the alignment of an address is lost there are
            dozens.
        max_registers: most registers a thread; 255 is the hardware's limit.
    """

    operator: str
    name: str
    kernel: str
    arguments: Mapping[str, str | int | float]
    constants: Mapping[str, object]
    warps: int = 4
    stages: int = 3
    capabilities: tuple[int, ...] = CAPABILITIES
    checked: tuple[int, ...] = ()
    tensor_cores: bool = True
    min_vector_loads: int = 1
    max_scalar_loads: int = 16
    max_registers: int = 255
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.operator} {self.name}"
