"""Attention in tiles of queries and keys, in Triton. Heads are cut into two parts and not padded to the next
power of two: 72 numbers are computed as 64 + 16, and 96 as 64 + 32. A text of up to 128 tokens is one tile.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LEAST = 16  # rows and columns of a product of matrices
QUERIES = 128  # queries per tile
ONE_TILE = 128  # maximum keys in a single tile
KEYS = 64  # keys per tile if there are several
LOG2E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-1e30)  # below all scores but -inf, which may fill a whole tile
STEP = tl.constexpr(8)  # strides are multiples of this: 16 bytes are read at once


@triton.jit
def load_tile(pointer, rows, stride, limit, columns, WIDTH: tl.constexpr):
    """Rows [rows, columns] of a matrix with this number of rows; zeros outside."""
    inside = (rows < limit)[:, None] & (columns < WIDTH)[None, :]
    places = rows.to(tl.int64)[:, None] * (stride * STEP) + columns[None, :]
    return tl.load(pointer + places, mask=inside, other=0.0)


@triton.jit
def scores_of(q, k, others, limit, columns, WIDTH: tl.constexpr):
    """Scores of a tile of queries and a tile of keys, times log2(e); -inf beyond the last key.

    q, columns: of both parts. k: pointer and stride of a token.
    """
    first = load_tile(k[0], others, k[1], limit, columns[0], WIDTH)
    rest = load_tile(k[0], others, k[1], limit, columns[1], WIDTH)
    scores = tl.dot(q[0], tl.trans(first)) + tl.dot(q[1], tl.trans(rest))
    return tl.where((others < limit)[None, :], scores * (WIDTH**-0.5 * LOG2E), float("-inf"))


@triton.jit
def bias_of(bias, others, limit):
    """The bias of a tile of keys, times log2(e)."""
    added = tl.load(bias + others, mask=others < limit, other=0.0).to(tl.float32)
    return (added * LOG2E)[None, :]


@triton.jit
def tiles_kernel(tensors, bias, strides, sizes, WIDTH: tl.constexpr, PARTS: tl.constexpr, TILE: tl.constexpr):
    """A tile of queries of one head: softmax(q k^T / sqrt(WIDTH) + bias) v, by powers of two.

    tensors: q, k, v and the contiguous output. bias: of the keys, or None. strides: of sample, head and token
    of q, k and v in STEPs, and of a sample of the bias. sizes: queries, keys, heads. PARTS: columns of a
    head's two parts. TILE: queries and keys.
    """
    q, k, v, out = tensors
    queries, keys, heads = sizes
    blocks = tl.cdiv(queries, TILE[0])
    place = tl.program_id(0) // blocks  # neighbours read the same keys
    sample, head = (place // heads).to(tl.int64), (place % heads).to(tl.int64)
    q += (sample * strides[0] + head * strides[1]) * STEP
    k += (sample * strides[3] + head * strides[4]) * STEP
    v += (sample * strides[6] + head * strides[7]) * STEP
    rows = tl.program_id(0) % blocks * TILE[0] + tl.arange(0, TILE[0])
    first, rest = tl.arange(0, PARTS[0]), PARTS[0] + tl.arange(0, PARTS[1])
    q_first = load_tile(q, rows, strides[2], queries, first, WIDTH)
    q_rest = load_tile(q, rows, strides[2], queries, rest, WIDTH)
    sum_first, sum_rest = tl.zeros(q_first.shape, tl.float32), tl.zeros(q_rest.shape, tl.float32)
    most, total = tl.full(rows.shape, LOWEST, tl.float32), tl.zeros(rows.shape, tl.float32)
    for start in range(0, keys, TILE[1]):
        others = start + tl.arange(0, TILE[1])
        scores = scores_of((q_first, q_rest), (k, strides[5]), others, keys, (first, rest), WIDTH)
        if bias is not None:
            scores += bias_of(bias + sample * strides[9], others, keys)
        highest = tl.maximum(most, tl.max(scores, 1))
        weights, shrink = tl.exp2(scores - highest[:, None]), tl.exp2(most - highest)
        total, most = total * shrink + tl.sum(weights, 1), highest
        v_first = load_tile(v, others, strides[8], keys, first, WIDTH)
        v_rest = load_tile(v, others, strides[8], keys, rest, WIDTH)
        sum_first = sum_first * shrink[:, None] + tl.dot(weights.to(v_first.dtype), v_first)
        sum_rest = sum_rest * shrink[:, None] + tl.dot(weights.to(v_first.dtype), v_rest)
    out += ((sample * queries + rows.to(tl.int64)) * heads + head)[:, None] * WIDTH
    total = tl.where(total == 0.0, 1.0, total)  # if everything is masked by -inf, the result is zero
    store_part(out, first, sum_first / total[:, None], rows < queries, WIDTH)
    store_part(out, rest, sum_rest / total[:, None], rows < queries, WIDTH)


@triton.jit
def store_part(out, columns, values, are_inside, WIDTH: tl.constexpr):
    """Write the columns of rows that are inside the matrix."""
    inside = are_inside[:, None] & (columns < WIDTH)[None, :]
    tl.store(out + columns[None, :], values.to(out.dtype.element_ty), mask=inside)


def cut(width: int) -> tuple[int, int]:
    """The two parts that a head is computed in, powers of two from 16 on: (64, 16) of 72, (32, 32) of 64."""
    head = max(1 << ((width - 1).bit_length() - 1), LEAST)
    return head, max(triton.next_power_of_2(width - head), LEAST)


def attend_tiles(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v of q [B, heads, n, d], k and v [B, heads, m, d], of strides that are
    multiples of STEP, and 1 in the last dimension: [B, n, heads, d], contiguous.

    bias: contiguous [B or 1, 1, 1, m].
    """
    batch, heads, queries, width = q.shape
    keys = k.shape[2]
    out = torch.empty(batch, queries, heads, width, dtype=q.dtype, device=q.device)
    step = 0 if bias is None or len(bias) == 1 else bias.stride(0)
    rows = min(QUERIES, max(triton.next_power_of_2(queries), LEAST))
    others = KEYS if keys > ONE_TILE else max(triton.next_power_of_2(keys), LEAST)
    tiles_kernel[(triton.cdiv(queries, rows) * batch * heads,)](
        (q, k, v, out),
        bias,
        (*(stride // STEP.value for part in (q, k, v) for stride in part.stride()[:3]), step),
        (queries, keys, heads),
        WIDTH=width,
        PARTS=cut(width),
        TILE=(rows, others),
        num_warps=8 if rows == QUERIES else 4,
    )
    return out
