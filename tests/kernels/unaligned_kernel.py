"""The gather of shuffle_project as one would write it first: the place within a token is ``k % C``.

Triton then knows no alignment of the address any more. It computes the same, and the budget has to refuse it.
"""

import triton
import triton.language as tl


@triton.jit
def gathered_product(tokens, weight, out, M, N, C, width, stride_t, HINT: tl.constexpr, BLOCK_M: tl.constexpr,
                     BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns, steps = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    first = (rows // (width // 2)) * 2 * width + rows % (width // 2) * 2
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, 4 * C, BLOCK_K):
        s, c = k // C, k % C
        if HINT:
            c = tl.multiple_of(c, BLOCK_K)
        token = first + (s // 2) * width + s % 2
        a = tl.load(tokens + token[:, None] * stride_t + c + steps[None, :], (rows < M)[:, None], 0.0)
        b = tl.load(weight + columns[None, :] * (4 * C) + k + steps[:, None], (columns < N)[None, :], 0.0)
        sums = tl.dot(a, b, sums)
    inside = (rows < M)[:, None] & (columns < N)[None, :]
    tl.store(out + rows[:, None] * N + columns[None, :], sums.to(out.dtype.element_ty), inside)
