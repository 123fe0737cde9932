"""All heads in one launch, and beside them, if wished, the two-layer map of the semantic tokens.

A program owns one head and 16 regions: the first hidden layer stays in registers, the second is made a piece at a time
and goes straight into the output layer. The other programs own 16 semantic tokens and 64 outputs each; they make the
hidden layer a piece at a time and never store it, which costs its computation once a block of outputs and saves a
second launch, and no program waits for another.
"""

import triton
import triton.language as tl

from pam_kit.kernels.device import dot, gelu


@triton.jit
def heads_kernel(tokens, w1, b1, w2, b2, w3, b3, out, x, v1, c1, v2, c2, projected, regions, semantic_rows,
                 stride_region, stride_token, squashed, C: tl.constexpr, D: tl.constexpr, OUT: tl.constexpr,
                 H: tl.constexpr, INNER: tl.constexpr, PROJECTED: tl.constexpr, SEMANTIC: tl.constexpr,
                 BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, WHOLE_C: tl.constexpr, BLOCK_D: tl.constexpr,
                 BLOCK_N: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_P: tl.constexpr,
                 PRECISION: tl.constexpr):  # fmt: skip
    pid = tl.program_id(0)
    blocks = tl.cdiv(regions, BLOCK_R)
    if pid < H * blocks:
        head = pid % H
        rows = (pid // H) * BLOCK_R + tl.arange(0, BLOCK_R)
        hidden = first_layer(
            tokens, w1, b1, head, rows, regions, stride_region, stride_token,
            C, D, BLOCK_R, BLOCK_C, BLOCK_D, PRECISION,
        )  # fmt: skip
        last_layers(
            hidden, w2, b2, w3, b3, out, head, rows, regions, squashed,
            D, OUT, H, BLOCK_R, BLOCK_D, BLOCK_N, BLOCK_O, PRECISION,
        )  # fmt: skip
    else:
        if SEMANTIC:
            semantic_tile(
                x, v1, c1, v2, c2, projected, pid - H * blocks, semantic_rows,
                C, INNER, PROJECTED, BLOCK_R, WHOLE_C, BLOCK_N, BLOCK_P, PRECISION,
            )  # fmt: skip


@triton.jit
def first_layer(tokens, w1, b1, head, rows, regions, stride_region, stride_token, C: tl.constexpr,
                D: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
                PRECISION: tl.constexpr):  # fmt: skip
    """(BLOCK_R, BLOCK_D) of relu(tokens @ w1^T + b1), in the type of the tokens."""
    d, k = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_C)
    tokens += rows.to(tl.int64)[:, None] * stride_region + head * stride_token + k[None, :]
    w1 += head * D * C + d[None, :] * C + k[:, None]
    acc = tl.zeros((BLOCK_R, BLOCK_D), tl.float32)
    for start in range(0, C, BLOCK_C):
        a = tl.load(tokens + start, mask=(rows < regions)[:, None] & (start + k < C)[None, :], other=0.0)
        w = tl.load(w1 + start, mask=(d < D)[None, :] & (start + k < C)[:, None], other=0.0)
        acc = dot(a, w, acc, PRECISION)
    acc += tl.load(b1 + head * D + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
    return tl.maximum(acc, 0.0).to(w1.dtype.element_ty)


@triton.jit
def last_layers(hidden, w2, b2, w3, b3, out, head, rows, regions, squashed, D: tl.constexpr, OUT: tl.constexpr,
                H: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
                BLOCK_O: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Second and third layer; the second in pieces of BLOCK_N units."""
    d, n, o = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_O)
    w2 += head * D * D + n[None, :] * D + d[:, None]
    w3 += head * OUT * D + o[None, :] * D + n[:, None]
    acc = tl.zeros((BLOCK_R, BLOCK_O), tl.float32)
    for start in range(0, D, BLOCK_N):
        inside = start + n < D
        w = tl.load(w2 + start * D, mask=inside[None, :] & (d < D)[:, None], other=0.0)
        piece = dot(hidden, w, tl.zeros((BLOCK_R, BLOCK_N), tl.float32), PRECISION)
        piece += tl.load(b2 + head * D + start + n, mask=inside, other=0.0).to(tl.float32)[None, :]
        piece = tl.maximum(piece, 0.0).to(hidden.dtype)
        w = tl.load(w3 + start, mask=inside[:, None] & (o < OUT)[None, :], other=0.0)
        acc = dot(piece, w, acc, PRECISION)
    acc += tl.load(b3 + head * OUT + o, mask=o < OUT, other=0.0).to(tl.float32)[None, :]
    if (squashed >> head) & 1:
        acc = 1.0 / (1.0 + tl.exp(-acc))
    out += (rows.to(tl.int64)[:, None] * H + head) * OUT + o[None, :]
    tl.store(out, acc.to(out.dtype.element_ty), mask=(rows < regions)[:, None] & (o < OUT)[None, :])


@triton.jit
def semantic_tile(x, v1, c1, v2, c2, projected, tile, semantic_rows, C: tl.constexpr, INNER: tl.constexpr,
                  PROJECTED: tl.constexpr, BLOCK_R: tl.constexpr, WHOLE_C: tl.constexpr, BLOCK_N: tl.constexpr,
                  BLOCK_P: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """BLOCK_R rows and BLOCK_P columns of gelu(x @ v1^T + c1) @ v2^T + c2."""
    across = tl.cdiv(PROJECTED, BLOCK_P)
    rows = (tile // across) * BLOCK_R + tl.arange(0, BLOCK_R)
    p = (tile % across) * BLOCK_P + tl.arange(0, BLOCK_P)
    k, n = tl.arange(0, WHOLE_C), tl.arange(0, BLOCK_N)
    present = (rows < semantic_rows)[:, None]
    a = tl.load(x + rows.to(tl.int64)[:, None] * C + k[None, :], mask=present & (k < C)[None, :], other=0.0)
    acc = tl.zeros((BLOCK_R, BLOCK_P), tl.float32)
    for start in range(0, INNER, BLOCK_N):
        unit = start + n
        w = tl.load(v1 + unit[None, :] * C + k[:, None], mask=(unit < INNER)[None, :] & (k < C)[:, None], other=0.0)
        piece = dot(a, w, tl.zeros((BLOCK_R, BLOCK_N), tl.float32), PRECISION)
        piece = gelu(piece + tl.load(c1 + unit, mask=unit < INNER, other=0.0).to(tl.float32)[None, :]).to(a.dtype)
        inside = (unit < INNER)[:, None] & (p < PROJECTED)[None, :]
        acc = dot(piece, tl.load(v2 + p[None, :] * INNER + unit[:, None], mask=inside, other=0.0), acc, PRECISION)
    acc += tl.load(c2 + p, mask=p < PROJECTED, other=0.0).to(tl.float32)[None, :]
    place = projected + rows.to(tl.int64)[:, None] * PROJECTED + p[None, :]
    tl.store(place, acc.to(projected.dtype.element_ty), mask=present & (p < PROJECTED)[None, :])
