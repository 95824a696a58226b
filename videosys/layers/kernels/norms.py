"""Residual, gate, layer norm and modulation in one pass over the tokens, in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def modulation_kernel(
    tensors, residual, gate, vectors, layout, eps, WIDTH: tl.constexpr, COLUMNS: tl.constexpr
):
    """One token: x + gate y, its layer norm, modulated.

    tensors: x and the output. residual: y and the sum's output; or None for x unchanged. gate: or None.
    vectors: shift and scale. layout: strides of sample and frame in vectors and gate; frames, positions.
    """
    x_pointer, out = tensors
    sample_stride, frame_stride, frames, positions = layout
    token = tl.program_id(0)
    sample, frame = (token // (frames * positions)).to(tl.int64), (token // positions % frames).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    inside = columns < WIDTH
    place = token.to(tl.int64) * WIDTH + columns
    vector = sample * sample_stride + frame * frame_stride + columns
    x = tl.load(x_pointer + place, mask=inside, other=0.0).to(tl.float32)
    if residual is not None:
        y = tl.load(residual[0] + place, mask=inside, other=0.0).to(tl.float32)
        if gate is not None:
            y *= tl.load(gate + vector, mask=inside, other=0.0).to(tl.float32)
        rounded = (x + y).to(out.dtype.element_ty)
        tl.store(residual[1] + place, rounded, mask=inside)
        x = rounded.to(tl.float32)  # normalize the rounded value, which the next layer reads
    centered = tl.where(inside, x - tl.sum(x, 0) / WIDTH, 0.0)
    normed = centered * tl.rsqrt(tl.sum(centered * centered, 0) / WIDTH + eps)
    shift = tl.load(vectors[0] + vector, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(vectors[1] + vector, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, (normed * (1 + scale) + shift).to(out.dtype.element_ty), mask=inside)


def modulate(
    x: Tensor,
    residual: tuple[Tensor, Tensor] | None,
    gate: Tensor | None,
    vectors: tuple[Tensor, Tensor],
    eps: float,
) -> Tensor:
    """LN(x) * (1 + scale) + shift of contiguous x [B, T, S, C].

    residual: y, and where the sum x + gate y is written; the norm is then of the sum. gate: None for 1.
    vectors: shift and scale, like the gate [B, 1 or T, 1, C] with the same strides.
    """
    _, frames, positions, width = x.shape
    shift, out = vectors[0], torch.empty_like(x)
    columns = triton.next_power_of_2(width)
    modulation_kernel[(x.numel() // width,)](
        (x, out),
        residual,
        gate,
        vectors,
        (shift.stride(0), shift.stride(1) if shift.shape[1] > 1 else 0, frames, positions),
        eps,
        WIDTH=width,
        COLUMNS=columns,
        num_warps=min(max(columns // 512, 1), 8),
    )
    return out
