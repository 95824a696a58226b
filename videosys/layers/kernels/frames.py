"""Attention over few frames, in Triton: one program for each head at each position of a frame."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LEAST = 16  # rows and columns of a product of matrices


@triton.jit
def load_rotated(pointer, offsets, inside, weights, angles, WEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Rows: normalized if there are weights (q's, k's, eps; WEIGHT chooses), rotated if there are angles."""
    x = tl.load(pointer + offsets, mask=inside, other=0.0).to(tl.float32)
    columns = tl.arange(0, x.shape[1])
    if weights is not None:
        scale = tl.load(weights[WEIGHT] + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)
        x = x * tl.rsqrt(tl.sum(x * x, 1) / WIDTH + weights[2])[:, None] * scale[None, :]
    if angles is not None:
        even, odd = tl.split(tl.reshape(x, (x.shape[0], x.shape[1] // 2, 2)))
        cos, sin = angles
        x = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), x.shape)
    return x.to(pointer.dtype.element_ty)


@triton.jit
def load_table(table, frames, ROWS: tl.constexpr, PAIRS: tl.constexpr, WIDTH: tl.constexpr):
    """Cosines and sines [ROWS, PAIRS] of contiguous float32 tables [frames, WIDTH / 2]."""
    rows, pairs = tl.arange(0, ROWS)[:, None], tl.arange(0, PAIRS)[None, :]
    inside = (rows < frames) & (pairs < WIDTH // 2)
    offsets = rows * (WIDTH // 2) + pairs
    cos = tl.load(table[0] + offsets, mask=inside, other=1.0)
    sin = tl.load(table[1] + offsets, mask=inside, other=0.0)
    return cos, sin


@triton.jit
def frames_kernel(
    tensors, weights, table, strides, sizes, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """One head of one position: softmax(q k^T / sqrt(WIDTH)) v over the frames.

    tensors: q, k, v and the contiguous output. weights: q's and k's, and eps; or None. table: cosines, sines;
    or None. strides: of sample, frame and position; heads lie side by side. sizes: frames, positions, heads.
    """
    q, k, v, out = tensors
    frames, positions, heads = sizes
    # Programs with neighbouring numbers read neighbouring heads: together they read whole rows.
    place = tl.program_id(0)
    head, place = (place % heads).to(tl.int64), place // heads
    position, sample = (place % positions).to(tl.int64), (place // positions).to(tl.int64)
    rows = tl.arange(0, ROWS).to(tl.int64)[:, None]
    columns = tl.arange(0, COLUMNS)[None, :]
    inside = (rows < frames) & (columns < WIDTH)
    offsets = sample * strides[0] + position * strides[2] + head * WIDTH
    offsets += rows * strides[1] + columns
    angles = table
    if table is not None:
        angles = load_table(table, frames, ROWS, COLUMNS // 2, WIDTH)
    queries = load_rotated(q, offsets, inside, weights, angles, 0, WIDTH)
    keys = load_rotated(k, offsets, inside, weights, angles, 1, WIDTH)
    values = tl.load(v + offsets, mask=inside, other=0.0)
    scores = tl.dot(queries, tl.trans(keys)) * (WIDTH**-0.5)
    scores = tl.where(tl.arange(0, ROWS)[None, :] < frames, scores, float("-inf"))
    scores = tl.exp(scores - tl.max(scores, 1)[:, None])
    heads_out = tl.dot((scores / tl.sum(scores, 1)[:, None]).to(values.dtype), values)
    rows_out = ((sample * frames + rows) * positions + position) * heads + head
    tl.store(out + rows_out * WIDTH + columns, heads_out.to(values.dtype), mask=inside)


def attend_frames(
    parts: tuple[Tensor, Tensor, Tensor],
    weights: tuple[Tensor, Tensor] | None,
    table: tuple[Tensor, Tensor] | None,
    eps: float,
) -> Tensor:
    """[B, T, S, heads, d], contiguous, of queries, keys and values of that shape, all with the same strides,
    heads side by side.

    weights: [d] of the norms of q and k. table: cosines and sines [T, d/2], float32.
    """
    q = parts[0]
    batch, frames, positions, heads, width = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    rows = max(triton.next_power_of_2(frames), LEAST)
    frames_kernel[(batch * positions * heads,)](
        (*parts, out),
        None if weights is None else (*weights, eps),
        table,
        q.stride()[:3],
        (frames, positions, heads),
        WIDTH=width,
        ROWS=rows,
        COLUMNS=max(triton.next_power_of_2(width), LEAST),
        num_warps=rows // LEAST,
    )
    return out
