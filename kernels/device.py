"""What several kernels compute inside: products, activations, the order in which tiles are visited.

Triton's interpreter multiplies bfloat16 bit patterns as integers, so there operands are widened first; the compiled
code is the same without it.
"""

import triton
import triton.language as tl

from pam_kit.kernels.dispatch import interpreting

INTERPRETED: tl.constexpr = tl.constexpr(interpreting())


@triton.jit
def dot(a, b, acc, precision: tl.constexpr):
    """acc + a @ b with float32 sums; ``precision`` matters to float32 operands only."""
    if INTERPRETED:
        return acc + tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(a, b, acc, input_precision=precision)


@triton.jit
def gelu(x):
    """x * Phi(x), exact (erf), in float32."""
    return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))


@triton.jit
def gelu_slope(x):
    """The derivative of ``gelu``: Phi(x) + x * phi(x)."""
    return 0.5 * (1.0 + tl.math.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)


@triton.jit
def grouped_tile(rows, columns, GROUP: tl.constexpr):
    """This program's tile (row, column) of a rows x columns table, GROUP rows at a time: neighbours share the cache."""
    pid = tl.program_id(0)
    group = pid // (GROUP * columns)
    first = group * GROUP
    height = tl.minimum(rows - first, GROUP)
    inside = pid % (GROUP * columns)
    return first + inside % height, inside // height
