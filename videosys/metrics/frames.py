"""Shared by all metrics: validation of two videos, and splitting them into pieces."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from videosys.utils.devices import float64_device

Video = torch.Tensor | np.ndarray


def check_pair(video: Video, reference: Video) -> tuple[torch.Tensor, torch.Tensor]:
    """Both videos as tensors [T, H, W, C]; ValueError unless they are videos of the same size.

    A video is uint8 in 0..255, or floating in [0, 1].
    """
    pair = _tensor(video, "video"), _tensor(reference, "reference")
    shapes = [tuple(item.shape) for item in pair]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the videos differ in size [T, H, W, C]: video {shapes[0]}, reference {shapes[1]}")
    return pair


def _tensor(video: Video, name: str) -> torch.Tensor:
    if not isinstance(video, (torch.Tensor, np.ndarray)):
        raise ValueError(f"{name} must be a tensor or an array, got {type(video).__name__}")
    tensor = torch.as_tensor(video)
    if tensor.ndim != 4 or 0 in tensor.shape:
        raise ValueError(f"{name} must be frames [T, H, W, C], got {list(tensor.shape)}")
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise ValueError(f"{name} must be uint8 or floating, got {tensor.dtype}")
    # Also false for NaN.
    if tensor.is_floating_point() and not bool(((tensor >= 0) & (tensor <= 1)).all()):
        low, high = float(tensor.min()), float(tensor.max())
        raise ValueError(f"{name} is floating and must be in [0, 1], got values from {low:g} to {high:g}")
    return tensor


def pieces(
    pair: tuple[torch.Tensor, torch.Tensor], size: int, device: torch.device | str | None, dtype: torch.dtype
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield both videos in pieces of `size` frames, [t, C, H, W] in [0, 1]; by default on their device."""
    for parts in zip(*(video.split(size) for video in pair)):
        yield tuple(_unit(part, device, dtype) for part in parts)  # type: ignore[misc]


def _unit(frames: torch.Tensor, device: torch.device | str | None, dtype: torch.dtype) -> torch.Tensor:
    place = frames.device if device is None else torch.device(device)
    values = frames.to(float64_device(place) if dtype == torch.float64 else place).to(dtype)
    return (values / 255 if frames.dtype == torch.uint8 else values).permute(0, 3, 1, 2)
