"""Attention in tiles of queries and keys, in Triton. Heads are cut into two parts and not padded to the next
power of two: 72 numbers are computed as 64 + 16, and 96 as 64 + 32. A text of up to 128 tokens is one tile.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

LEAST = 16  # rows and columns of a product of matrices
QUERIES = 128  # of a tile
ONE_TILE = 128  # keys that are one tile
KEYS = 64  # of a tile where there are more
STEP = tl.constexpr(8)  # numbers that strides are multiples of: 16 bytes are read at once


@triton.jit
def load_tile(pointer, rows, stride, limit, columns, WIDTH: tl.constexpr):
    """Rows [rows, columns] of a matrix with this many rows; zeros outside of it."""
    inside = (rows < limit)[:, None] & (columns < WIDTH)[None, :]
    places = rows.to(tl.int64)[:, None] * (stride * STEP) + columns[None, :]
    return tl.load(pointer + places, mask=inside, other=0.0)


@triton.jit
def tiles_kernel(
    tensors,
    bias,
    strides,
    sizes,
    scale,
    WIDTH: tl.constexpr,
    HEAD: tl.constexpr,
    TAIL: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """QUERIES rows of one head: softmax(q k^T * scale + bias) v, with powers of two for those of e.

    tensors: q, k, v and the contiguous output [B, queries, heads, WIDTH]. bias: pointer and stride of a
    sample, or None. strides: of sample, head and token of q, k and v, in STEPs. sizes: queries, keys, heads.
    scale: times log2(e). HEAD and TAIL: the parts of WIDTH columns, the second not whole, or 0.
    """
    q, k, v, out = tensors
    queries, keys, heads = sizes
    blocks = tl.cdiv(queries, QUERIES)
    place = tl.program_id(0) // blocks  # neighbours read the same keys
    sample, head = (place // heads).to(tl.int64), (place % heads).to(tl.int64)
    q += (sample * strides[0] + head * strides[1]) * STEP
    k += (sample * strides[3] + head * strides[4]) * STEP
    v += (sample * strides[6] + head * strides[7]) * STEP
    rows = tl.program_id(0) % blocks * QUERIES + tl.arange(0, QUERIES)
    first = tl.arange(0, HEAD)
    q_first = load_tile(q, rows, strides[2], queries, first, WIDTH)
    sum_first = tl.zeros([QUERIES, HEAD], tl.float32)
    if TAIL:
        rest = HEAD + tl.arange(0, TAIL)
        q_rest = load_tile(q, rows, strides[2], queries, rest, WIDTH)
        sum_rest = tl.zeros([QUERIES, TAIL], tl.float32)
    most = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    for start in range(0, keys, KEYS):
        others = start + tl.arange(0, KEYS)
        scores = tl.dot(q_first, tl.trans(load_tile(k, others, strides[5], keys, first, WIDTH)))
        if TAIL:
            scores += tl.dot(q_rest, tl.trans(load_tile(k, others, strides[5], keys, rest, WIDTH)))
        scores *= scale
        if bias is not None:
            added = tl.load(bias[0] + sample * bias[1] + others, mask=others < keys, other=0.0)
            scores += (added.to(tl.float32) * 1.4426950408889634)[None, :]
        scores = tl.where((others < keys)[None, :], scores, float("-inf"))
        highest = tl.maximum(most, tl.max(scores, 1))
        weights = tl.exp2(scores - highest[:, None])
        shrink = tl.exp2(most - highest)
        total = total * shrink + tl.sum(weights, 1)
        v_first = load_tile(v, others, strides[8], keys, first, WIDTH)
        weights = weights.to(v_first.dtype)
        sum_first = sum_first * shrink[:, None] + tl.dot(weights, v_first)
        if TAIL:
            v_rest = load_tile(v, others, strides[8], keys, rest, WIDTH)
            sum_rest = sum_rest * shrink[:, None] + tl.dot(weights, v_rest)
        most = highest
    kind = out.dtype.element_ty
    out += ((sample * queries + rows.to(tl.int64)) * heads + head)[:, None] * WIDTH
    inside = (rows < queries)[:, None]
    share = 1 / total[:, None]
    tl.store(out + first[None, :], (sum_first * share).to(kind), mask=inside)
    if TAIL:
        tl.store(out + rest[None, :], (sum_rest * share).to(kind), mask=inside & (rest < WIDTH)[None, :])


def cut(width: int) -> tuple[int, int]:
    """The two parts that a head is computed in, powers of two: (64, 16) of 72, (64, 0) of 64."""
    head = 1 << (width.bit_length() - 1)
    rest = width - head
    return head, max(triton.next_power_of_2(rest), LEAST) if rest else 0


def attend_tiles(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v of q [B, heads, n, d], k and v [B, heads, m, d], of strides that are
    multiples of STEP, and 1 in the last dimension: [B, n, heads, d], contiguous.

    bias: contiguous [B or 1, 1, 1, m].
    """
    batch, heads, queries, width = q.shape
    keys = k.shape[2]
    out = torch.empty(batch, queries, heads, width, dtype=q.dtype, device=q.device)
    head, tail = cut(width)
    rows = min(QUERIES, max(triton.next_power_of_2(queries), LEAST))
    others = KEYS if keys > ONE_TILE else max(triton.next_power_of_2(keys), LEAST)
    tiles_kernel[(triton.cdiv(queries, rows) * batch * heads,)](
        (q, k, v, out),
        None if bias is None else (bias, bias.stride(0) if len(bias) > 1 else 0),
        tuple(stride // STEP.value for part in (q, k, v) for stride in part.stride()[:3]),
        (queries, keys, heads),
        width**-0.5 * math.log2(math.e),
        WIDTH=width,
        HEAD=head,
        TAIL=tail,
        QUERIES=rows,
        KEYS=others,
        num_warps=8 if rows == QUERIES else 4,
    )
    return out
