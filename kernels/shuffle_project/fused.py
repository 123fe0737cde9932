"""The Triton kernels: a product whose left operand is gathered from r x r neighbours, and its derivatives.

Axes: M merged tokens of all regions, N output channels, C channels of a token; K = r^2*C runs over the neighbours s,
then over the channels. A step of the sum stays within one neighbour, so its address is that of the first neighbour plus
a scalar. The step's offset is a multiple of BLOCK_K by construction: were it taken as ``k % C``, Triton would lose the
alignment and load two bytes at a time.
"""

import triton
import triton.language as tl

from pam_kit.kernels.device import dot, gelu, gelu_slope, grouped_tile


@triton.jit
def first_neighbours(rows, kept, M, count, width, merged_h, merged_w, RATIO: tl.constexpr, COLUMN: tl.constexpr,
                     KEPT: tl.constexpr):  # fmt: skip
    """Region, and token of the upper left neighbour, of each merged token in ``rows``."""
    if KEPT:
        merged = tl.load(kept + rows, rows < M, 0).to(tl.int32)
    else:
        merged = rows % count
    if COLUMN:
        y, x = merged % merged_h, merged // merged_h
    else:
        y, x = merged // merged_w, merged % merged_w
    return (rows // count).to(tl.int64), ((y * width + x) * RATIO).to(tl.int64)


@triton.jit
def neighbour(s, width, RATIO: tl.constexpr):
    """How many tokens neighbour ``s`` lies behind the upper left one."""
    return (s // RATIO) * width + s % RATIO


@triton.jit
def forward_kernel(tokens, weight, bias, kept, out, preactivation, M, N, C, count, width, merged_h, merged_w, stride_r,
                   stride_t, RATIO: tl.constexpr, COLUMN: tl.constexpr, KEPT: tl.constexpr, BIAS: tl.constexpr,
                   GELU: tl.constexpr, STORE: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
                   BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
                   GROUP: tl.constexpr):  # fmt: skip
    """out = gelu(gather(tokens) @ weight^T + bias); the pre-activation beside it where STORE."""
    tile_m, tile_n = grouped_tile(tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP)
    rows, columns = tile_m * BLOCK_M + tl.arange(0, BLOCK_M), tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    steps = tl.arange(0, BLOCK_K)
    region, first = first_neighbours(rows, kept, M, count, width, merged_h, merged_w, RATIO, COLUMN, KEPT)
    left = tokens + (region * stride_r + first * stride_t)[:, None] + steps[None, :]
    right = weight + (columns.to(tl.int64) * (RATIO * RATIO * C))[None, :] + steps[:, None]
    blocks = tl.cdiv(C, BLOCK_K)
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(RATIO * RATIO * blocks):
        s, c = step // blocks, (step % blocks) * BLOCK_K
        inside_m, inside_n = (rows < M)[:, None], (columns < N)[None, :]
        if not EVEN:
            inside_m, inside_n = inside_m & (c + steps < C)[None, :], inside_n & (c + steps < C)[:, None]
        a = tl.load(left + (neighbour(s, width, RATIO).to(tl.int64) * stride_t + c), inside_m, 0.0)
        b = tl.load(right + (s * C + c), inside_n, 0.0)
        sums = dot(a, b, sums, PRECISION)
    if BIAS:
        sums += tl.load(bias + columns, columns < N, 0.0).to(tl.float32)[None, :]
    place = rows.to(tl.int64)[:, None] * N + columns[None, :]
    inside = (rows < M)[:, None] & (columns < N)[None, :]
    rounded = sums.to(out.dtype.element_ty)
    if STORE:
        tl.store(preactivation + place, rounded, inside)
    if GELU:
        rounded = gelu(rounded.to(tl.float32)).to(out.dtype.element_ty)
    tl.store(out + place, rounded, inside)


@triton.jit
def slope_kernel(upstream, preactivation, out, bias_parts, M, N, ROWS: tl.constexpr, BLOCK_M: tl.constexpr,
                 BLOCK_N: tl.constexpr):  # fmt: skip
    """out = upstream * gelu'(preactivation), and its sums over ROWS rows each, (ceil(M/ROWS), N)."""
    part, columns = tl.program_id(0), tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    sums = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, ROWS, BLOCK_M):
        rows = part * ROWS + start + tl.arange(0, BLOCK_M)
        place = rows.to(tl.int64)[:, None] * N + columns[None, :]
        inside = (rows < M)[:, None] & (columns < N)[None, :]
        slope = gelu_slope(tl.load(preactivation + place, inside, 0.0).to(tl.float32))
        value = tl.load(upstream + place, inside, 0.0).to(tl.float32) * slope
        rounded = value.to(out.dtype.element_ty)
        tl.store(out + place, rounded, inside)
        sums += tl.sum(tl.where(inside, value, 0.0), axis=0)
    tl.store(bias_parts + part.to(tl.int64) * N + columns, sums, columns < N)


@triton.jit
def tokens_kernel(slopes, weight, kept, out, M, N, C, count, width, merged_h, merged_w, tokens_per_region,
                  RATIO: tl.constexpr, COLUMN: tl.constexpr, KEPT: tl.constexpr, PRECISION: tl.constexpr,
                  BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
                  GROUP: tl.constexpr):  # fmt: skip
    """out = slopes @ weight, each row scattered to its r x r neighbours: none is written twice."""
    blocks = tl.cdiv(C, BLOCK_K)
    tile_m, tile_k = grouped_tile(tl.cdiv(M, BLOCK_M), RATIO * RATIO * blocks, GROUP)
    s, c = tile_k // blocks, (tile_k % blocks) * BLOCK_K
    rows, channels, steps = tile_m * BLOCK_M + tl.arange(0, BLOCK_M), c + tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_N)
    left = slopes + rows.to(tl.int64)[:, None] * N + steps[None, :]
    right = weight + steps.to(tl.int64)[:, None] * (RATIO * RATIO * C) + (s * C + channels)[None, :]
    sums = tl.zeros((BLOCK_M, BLOCK_K), tl.float32)
    for n in range(0, N, BLOCK_N):
        a = tl.load(left + n, (rows < M)[:, None] & (n + steps < N)[None, :], 0.0)
        b = tl.load(right, (n + steps < N)[:, None] & (channels < C)[None, :], 0.0)
        sums = dot(a, b, sums, PRECISION)
        right += BLOCK_N * (RATIO * RATIO * C)
    region, first = first_neighbours(rows, kept, M, count, width, merged_h, merged_w, RATIO, COLUMN, KEPT)
    token = region * tokens_per_region + first + neighbour(s, width, RATIO)
    place = token[:, None] * C + channels[None, :]
    tl.store(out + place, sums.to(out.dtype.element_ty), (rows < M)[:, None] & (channels < C)[None, :])


@triton.jit
def weight_kernel(slopes, tokens, kept, parts, M, N, C, count, width, merged_h, merged_w, stride_r, stride_t,
                  rows_a_part, RATIO: tl.constexpr, COLUMN: tl.constexpr, KEPT: tl.constexpr, PRECISION: tl.constexpr,
                  BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
                  GROUP: tl.constexpr):  # fmt: skip
    """parts[p] = slopes^T @ gather(tokens) over the rows of part p, (parts, N, K); in float32 if there are several."""
    blocks = tl.cdiv(C, BLOCK_K)
    tile_n, tile_k = grouped_tile(tl.cdiv(N, BLOCK_N), RATIO * RATIO * blocks, GROUP)
    s, c, part = tile_k // blocks, (tile_k % blocks) * BLOCK_K, tl.program_id(1)
    columns, channels = tile_n * BLOCK_N + tl.arange(0, BLOCK_N), c + tl.arange(0, BLOCK_K)
    last = tl.minimum(M, (part + 1) * rows_a_part)
    sums = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for start in range(part * rows_a_part, last, BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        region, first = first_neighbours(rows, kept, M, count, width, merged_h, merged_w, RATIO, COLUMN, KEPT)
        token = region * stride_r + (first + neighbour(s, width, RATIO)) * stride_t
        left = slopes + rows.to(tl.int64)[None, :] * N + columns[:, None]
        right = tokens + token[:, None] + channels[None, :]
        a = tl.load(left, (columns < N)[:, None] & (rows < last)[None, :], 0.0)
        b = tl.load(right, (rows < last)[:, None] & (channels < C)[None, :], 0.0)
        sums = dot(a, b, sums, PRECISION)
    place = (part.to(tl.int64) * N + columns[:, None]) * (RATIO * RATIO * C) + (s * C + channels)[None, :]
    tl.store(parts + place, sums.to(parts.dtype.element_ty), (columns < N)[:, None] & (channels < C)[None, :])
