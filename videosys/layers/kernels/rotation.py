"""Norms and rotary positions of queries and keys in one pass over both, in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = tl.constexpr(32)  # heads of tokens in one program


@triton.jit
def turn(x, out, columns, weights, angles, WEIGHT: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr):
    """Writes rows of x, normalized if there are weights (q's, k's, eps; WEIGHT chooses) and rotated if there
    are angles.

    x, out: base and offsets of the rows. columns: those whose partner is GROUP further, and their mask.
    """
    near, inside = columns
    a = tl.load(x[0] + x[1] + near, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x[0] + x[1] + near + GROUP, mask=inside, other=0.0).to(tl.float32)
    if weights is not None:
        scale = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / WIDTH + weights[2])[:, None]
        inner = near < WIDTH - GROUP
        a = a * scale * tl.load(weights[WEIGHT] + near, mask=inner, other=0.0).to(tl.float32)
        b = b * scale * tl.load(weights[WEIGHT] + near + GROUP, mask=inner, other=0.0).to(tl.float32)
    if angles is not None:
        cos, sin = angles
        a, b = a * cos - b * sin, a * sin + b * cos
    kind = out[0].dtype.element_ty
    tl.store(out[0] + out[1] + near, a.to(kind), mask=inside)
    tl.store(out[0] + out[1] + near + GROUP, b.to(kind), mask=inside)


@triton.jit
def rotation_kernel(
    tensors, weights, table, strides, sizes, WIDTH: tl.constexpr, GROUP: tl.constexpr, PAIRS: tl.constexpr
):
    """ROWS heads of tokens, of q and of k.

    tensors: q, k, and their contiguous outputs. weights: q's and k's, and eps; or None. table: cosines and
    sines [positions, WIDTH / 2], contiguous float32; or None. strides: of a token of q and of k. sizes: rows,
    heads and positions. In groups of 2 GROUP columns, each pairs with the one that is GROUP further.
    """
    q, k, q_out, k_out = tensors
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    pairs = tl.arange(0, PAIRS)[None, :]
    near = pairs // GROUP * (2 * GROUP) + pairs % GROUP
    inside = (rows < sizes[0]) & (pairs < WIDTH // 2)
    tokens, heads = rows // sizes[1], rows % sizes[1]
    angles = table
    if table is not None:
        places = tokens % sizes[2] * (WIDTH // 2) + pairs
        cos = tl.load(table[0] + places, mask=inside, other=1.0)
        angles = (cos, tl.load(table[1] + places, mask=inside, other=0.0))
    q_from, k_from = tokens * strides[0] + heads * WIDTH, tokens * strides[1] + heads * WIDTH
    turn((q, q_from), (q_out, rows * WIDTH), (near, inside), weights, angles, 0, WIDTH, GROUP)
    turn((k, k_from), (k_out, rows * WIDTH), (near, inside), weights, angles, 1, WIDTH, GROUP)


def norm_rotate(
    parts: tuple[Tensor, Tensor],
    weights: tuple[Tensor, Tensor] | None,
    table: tuple[Tensor, Tensor] | None,
    eps: float,
    group: int,
) -> tuple[Tensor, Tensor]:
    """Queries and keys [tokens, heads, d], heads side by side, normalized and rotated: both contiguous.

    table: cosines and sines [positions, d/2], float32; the positions are repeated over the tokens.
    """
    q, k = parts
    tokens, heads, width = q.shape
    outs = tuple(torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in parts)
    rows = tokens * heads
    rotation_kernel[(triton.cdiv(rows, ROWS.value),)](
        (*parts, *outs),
        None if weights is None else (*weights, eps),
        table,
        (q.stride(0), k.stride(0)),
        (rows, heads, 1 if table is None else len(table[0])),
        WIDTH=width,
        GROUP=group,
        PAIRS=triton.next_power_of_2(width // 2),
    )
    return outs[0], outs[1]
