"""Detects NaN and infinite values, and reports the stage and a remedy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

REMEDY = (
    "the weights are damaged, or values exceed the range of the dtype: try dtype float32 or bfloat16 "
    "(float16 ends at 65504), else download the checkpoint again"
)


class NotFiniteError(ValueError):
    """Values are NaN or infinite."""


def check_finite(values: Tensor, stage: str) -> None:
    """ValueError, with the name of the stage, if a value is NaN or infinite."""
    if not bool(torch.isfinite(values).all()):
        raise not_finite(stage)


def check_steps(are_finite: Sequence[Tensor]) -> None:
    """ValueError for latents that are not finite; it names the first such step. are_finite: one flag per
    step.

    The flags are read together after the loop, so that steps do not wait for the device.
    """
    has_values = are_finite and not are_finite[0].is_meta
    flags = torch.stack(list(are_finite)).tolist() if has_values else []
    if not all(flags):
        step = flags.index(False)
        raise not_finite(f"the transformer in denoising step {step + 1} of {len(flags)}", "latents that ")


def frame_sums(frames: Tensor) -> Tensor:
    """A value [B, T] per frame of [B, 3, T, H, W], which is finite only if the whole frame is finite."""
    return frames.sum(dim=(1, 3, 4), dtype=torch.float32)


def check_frames(sums: Tensor, chunk_frames: int | None = None) -> None:
    """ValueError if `frame_sums` of a clip are not finite; it names the first such frames.

    chunk_frames: number of frames decoded together, if fixed.
    """
    bad = (~torch.isfinite(sums)).any(dim=0).tolist()
    if not any(bad):
        return
    start = bad.index(True)
    end = next((number for number in range(start, len(bad)) if not bad[number]), len(bad)) - 1
    chunk = f"chunk {start // chunk_frames}, " if chunk_frames else ""
    stage = f"the autoencoder's decoder ({chunk}frames {start} to {end} of the clip, counted from 0)"
    raise not_finite(stage, "frames that ")


def not_finite(stage: str, what: str = "numbers that ") -> NotFiniteError:
    return NotFiniteError(f"{stage} gives {what}are not finite: {REMEDY}")
