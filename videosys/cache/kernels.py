"""TeaCache's sums as a Triton kernel, without the float32 and float64 copies of torch's operators."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 8192  # elements per program


@triton.jit
def l1_kernel(current, previous, sums, count, BLOCK: tl.constexpr):
    """Compute one program's part of both sums: column `program` of sums [2, programs], float64."""
    program = tl.program_id(0)
    places = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    now = tl.load(current + places, mask=places < count, other=0.0).to(tl.float32)
    before = tl.load(previous + places, mask=places < count, other=0.0).to(tl.float32)
    tl.store(sums + program, tl.sum(tl.abs(now - before).to(tl.float64), 0))
    tl.store(sums + tl.num_programs(0) + program, tl.sum(tl.abs(before).to(tl.float64), 0))


def l1_sums_in_one_pass(current: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
    """sum|current - previous| and sum|previous|, float64 [2]: differences in float32, sums in float64."""
    current, previous = current.contiguous(), previous.contiguous()
    programs = triton.cdiv(current.numel(), BLOCK)
    sums = torch.empty(2, programs, dtype=torch.float64, device=current.device)
    with torch.cuda.device_of(current):  # triton launches on the current device
        l1_kernel[(programs,)](current, previous, sums, current.numel(), BLOCK=BLOCK, num_warps=8)
    return sums.sum(dim=1)
