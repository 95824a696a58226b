"""Numbers that are not finite, found before they become a black picture: at which stage, and what helps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

REMEDY = (
    "its weights are damaged, or their results leave the range of their dtype: try dtype float32 or bfloat16 "
    "(float16 ends at 65504), else fetch the checkpoint again"
)


def check_finite(values: Tensor, stage: str) -> None:
    """ValueError that names the stage, where one of the values is not a number or infinite."""
    if not bool(torch.isfinite(values).all()):
        raise not_finite(stage)


def check_steps(are_finite: Sequence[Tensor]) -> None:
    """ValueError that names the first denoising step whose latents are not finite, of a flag for each.

    The flags are read together, once the loop is over: no step waits for the device.
    """
    has_values = are_finite and not are_finite[0].is_meta
    flags = torch.stack(list(are_finite)).tolist() if has_values else []
    if not all(flags):
        step = flags.index(False)
        raise not_finite(f"the transformer in denoising step {step + 1} of {len(flags)}", "latents that ")


def frame_sums(frames: Tensor) -> Tensor:
    """A number [B, T] for each frame of [B, 3, T, H, W], which is finite where all of the frame is."""
    return frames.sum(dim=(1, 3, 4), dtype=torch.float32)


def check_frames(sums: Tensor, chunk_frames: int | None = None) -> None:
    """ValueError that names the first frames of a clip that are not finite, of `frame_sums`.

    chunk_frames: so many are decoded together, if that is fixed.
    """
    bad = (~torch.isfinite(sums)).any(dim=0).tolist()
    if not any(bad):
        return
    start = bad.index(True)
    end = next((number for number in range(start, len(bad)) if not bad[number]), len(bad)) - 1
    chunk = f"chunk {start // chunk_frames}, " if chunk_frames else ""
    stage = f"the autoencoder's decoder ({chunk}frames {start} to {end} of the clip, counted from 0)"
    raise not_finite(stage, "frames that ")


def not_finite(stage: str, what: str = "numbers that ") -> ValueError:
    return ValueError(f"{stage} gives {what}are not finite: {REMEDY}")
