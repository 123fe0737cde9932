"""The Triton kernels behind the two-way transformer: tokens -> embedding of half the masks' size -> masks and counts.

The embedding of the masks' own size exists only as a tile on its way into the product with the hyper-networks' outputs.
Channels come last in everything that is read or written between the kernels, so that a load takes 16 bytes.
"""

import triton
import triton.language as tl

from pam_kit.kernels.device import dot, gelu


@triton.jit
def upscale_stage1(tokens, weight, bias, skip, norm_weight, norm_bias, image_index, out, pixels, width, stride_region,
                   stride_pixel, eps, C: tl.constexpr, C1: tl.constexpr, SKIP: tl.constexpr, BLOCK_P: tl.constexpr,
                   BLOCK_C: tl.constexpr, BLOCK_C1: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """(R, h*w, C) -> (R, 2h, 2w, C1). A program owns BLOCK_P tokens of one region, and the four pixels of each."""
    blocks = tl.cdiv(pixels, BLOCK_P)
    region = (tl.program_id(0) // blocks).to(tl.int64)
    p = (tl.program_id(0) % blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
    k, column = tl.arange(0, BLOCK_C), tl.arange(0, 4 * BLOCK_C1)
    if C1 == BLOCK_C1:
        place, real = column, column < 4 * C1
    else:
        place, real = (column // BLOCK_C1) * C1 + column % BLOCK_C1, column % BLOCK_C1 < C1
    left = tokens + region * stride_region + (p.to(tl.int64) * stride_pixel)[:, None] + k[None, :]
    right = weight + k[:, None] * (4 * C1) + place[None, :]
    sums = tl.zeros((BLOCK_P, 4 * BLOCK_C1), tl.float32)
    for start in range(0, C, BLOCK_C):
        a = tl.load(left + start, (p < pixels)[:, None] & (start + k < C)[None, :], 0.0)
        b = tl.load(right + start * (4 * C1), (start + k < C)[:, None] & real[None, :], 0.0)
        sums = dot(a, b, sums, PRECISION)
    x = tl.reshape(sums, (BLOCK_P, 4, BLOCK_C1))
    c, s = tl.arange(0, BLOCK_C1), tl.arange(0, 4)
    x += tl.load(bias + c, c < C1, 0.0).to(tl.float32)[None, None, :]
    y, z = 2 * (p // width)[:, None] + (s // 2)[None, :], 2 * (p % width)[:, None] + (s % 2)[None, :]
    place = (y * (2 * width) + z)[:, :, None] * C1 + c[None, None, :]
    inside = (p < pixels)[:, None, None] & (s < 4)[None, :, None] & (c < C1)[None, None, :]
    if SKIP:
        image = tl.load(image_index + region).to(tl.int64)
        x += tl.load(skip + image * (4 * pixels * C1) + place, inside, 0.0).to(tl.float32)
    x = normalised(x, norm_weight, norm_bias, eps, C1, BLOCK_C1)
    tl.store(out + region * (4 * pixels * C1) + place, gelu(x).to(out.dtype.element_ty), inside)


@triton.jit
def normalised(x, weight, bias, eps, C1: tl.constexpr, BLOCK_C1: tl.constexpr):
    """Layer norm over the last axis, of which C1 entries are real and the others zero."""
    c = tl.arange(0, BLOCK_C1)
    x -= (tl.sum(x, axis=2) / C1)[:, :, None]
    x = tl.where((c < C1)[None, None, :], x, 0.0)
    x *= tl.rsqrt(tl.sum(x * x, axis=2) / C1 + eps)[:, :, None]
    scale = tl.load(weight + c, c < C1, 0.0).to(tl.float32)[None, None, :]
    return x * scale + tl.load(bias + c, c < C1, 0.0).to(tl.float32)[None, None, :]


@triton.jit
def upscale_mask_tail(embedding, weight, bias, skip, hyper, image_index, logits, counts, height, width, stride_region,
                      stride_mask, delta, C1: tl.constexpr, C2: tl.constexpr, MASKS: tl.constexpr, SKIP: tl.constexpr,
                      BLOCK_X: tl.constexpr, BLOCK_C1: tl.constexpr, BLOCK_C2: tl.constexpr, BLOCK_M: tl.constexpr,
                      PRECISION: tl.constexpr):  # fmt: skip
    """(R, H, W, C1) -> logits (R, M, 2H, 2W) and counts (R, blocks, M, 3). A program owns BLOCK_X pixels of a row."""
    across = tl.cdiv(width, BLOCK_X)
    block = tl.program_id(0) % (height * across)
    region = (tl.program_id(0) // (height * across)).to(tl.int64)
    y, first = block // across, (block % across) * BLOCK_X
    x, k, column = first + tl.arange(0, BLOCK_X), tl.arange(0, BLOCK_C1), tl.arange(0, 4 * BLOCK_C2)
    if C2 == BLOCK_C2:
        place, real = column, column < 4 * C2
    else:
        place, real = (column // BLOCK_C2) * C2 + column % BLOCK_C2, column % BLOCK_C2 < C2
    left = embedding + ((region * height + y) * width + x)[:, None] * C1 + k[None, :]
    a = tl.load(left, (x < width)[:, None] & (k < C1)[None, :], 0.0)
    b = tl.load(weight + k[:, None] * (4 * C2) + place[None, :], (k < C1)[:, None] & real[None, :], 0.0)
    up = tl.reshape(dot(a, b, tl.zeros((BLOCK_X, 4 * BLOCK_C2), tl.float32), PRECISION), (BLOCK_X, 4, BLOCK_C2))
    c, s = tl.arange(0, BLOCK_C2), tl.arange(0, 4)
    up += tl.load(bias + c, c < C2, 0.0).to(tl.float32)[None, None, :]
    if SKIP:
        image = tl.load(image_index + region).to(tl.int64)
        place = (2 * y + s // 2)[None, :] * (2 * width) + 2 * x[:, None] + (s % 2)[None, :]
        place = (image * (4 * height * width) + place)[:, :, None] * C2 + c[None, None, :]
        inside = (x < width)[:, None, None] & (s < 4)[None, :, None] & (c < C2)[None, None, :]
        up += tl.load(skip + place, inside, 0.0).to(tl.float32)
    up = tl.reshape(gelu(up).to(embedding.dtype.element_ty), (4 * BLOCK_X, BLOCK_C2))
    m = tl.arange(0, BLOCK_M)
    mixed = hyper + region * stride_region + (m * stride_mask)[:, None] + c[None, :]
    mixed = tl.load(mixed, (m < MASKS)[:, None] & (c < C2)[None, :], 0.0)
    masks = dot(mixed, tl.trans(up), tl.zeros((BLOCK_M, 4 * BLOCK_X), tl.float32), PRECISION)
    # (x, dy, dx) -> (dy, x, dx): two rows of neighbouring pixels.
    masks = tl.permute(tl.reshape(masks, (BLOCK_M, BLOCK_X, 2, 2)), (0, 2, 1, 3))
    masks = tl.reshape(masks, (BLOCK_M, 2, 2 * BLOCK_X)).to(logits.dtype.element_ty)
    dy, column = tl.arange(0, 2), 2 * first + tl.arange(0, 2 * BLOCK_X)
    inside = (m < MASKS)[:, None, None] & (dy < 2)[None, :, None] & (column < 2 * width)[None, None, :]
    place = (2 * y + dy)[None, :, None] * (2 * width) + column[None, None, :]
    place = (region * MASKS + m)[:, None, None] * (4 * height * width) + place
    tl.store(logits + place, masks, inside)
    # What is counted are the rounded logits, as whoever reads them would count.
    value = masks.to(tl.float32)
    counts += ((region * (height * across) + block) * MASKS + m) * 3
    tl.store(counts, above(value, -delta, inside), m < MASKS)
    tl.store(counts + 1, above(value, 0.0, inside), m < MASKS)
    tl.store(counts + 2, above(value, delta, inside), m < MASKS)


@triton.jit
def above(value, bound, inside):
    """(M, dy, x) -> (M,): how many are."""
    found = ((value > bound) & inside).to(tl.int32)
    return tl.sum(tl.sum(found, axis=2), axis=1)


@triton.jit
def select_token(counts, iou, tokens, index, stability, picked, area, stride_iou, stride_iou_mask, stride_region,
                 stride_token, threshold, C: tl.constexpr, MASKS: tl.constexpr, BLOCK_M: tl.constexpr,
                 BLOCK_C: tl.constexpr):  # fmt: skip
    """The first mask where it is stable, else the best of the others; its token and area. A program owns a region."""
    region = tl.program_id(0).to(tl.int64)
    m, c = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_C)
    count = counts + region * (MASKS * 3)
    outer, inner = tl.load(count).to(tl.float32), tl.load(count + 2).to(tl.float32)
    score = tl.where(outer > 0, tl.div_rn(inner, tl.maximum(outer, 1.0)), 1.0)
    other = (m > 0) & (m < MASKS)
    quality = tl.load(iou + region * stride_iou + m * stride_iou_mask, other, 0.0).to(tl.float32)
    best = tl.argmax(tl.where(other, quality, float("-inf")), axis=0)
    chosen = tl.where(score >= threshold, 0, best)
    tl.store(index + region, chosen.to(tl.int64))
    tl.store(stability + region, score)
    tl.store(area + region, tl.load(count + chosen * 3 + 1))
    tokens += region * stride_region + c
    tl.store(picked + region * (2 * C) + c, tl.load(tokens + chosen * stride_token, c < C), c < C)
    tl.store(picked + region * (2 * C) + C + c, tl.load(tokens, c < C), c < C)
