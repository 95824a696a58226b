"""The spectrum of latents over time and space: the variance of each frequency, and errors by frequency.

Latents of natural videos have most of their variance at low frequencies. The response of a denoiser to an
error in its input depends on the variance of the data at that frequency (Wiener filter): a low-frequency
error at high noise stays in the video, a high-frequency error is removed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch

DIMENSIONS = (-3, -2, -1)
LEAST_VARIANCE = 1e-4


def coefficients(latents: torch.Tensor) -> torch.Tensor:
    """The orthonormal Fourier coefficients [..., T, H, W // 2 + 1] of latents [..., T, H, W]."""
    return torch.fft.rfftn(latents.float(), dim=DIMENSIONS, norm="ortho")


def filtered(latents: torch.Tensor, response: torch.Tensor) -> torch.Tensor:
    """Latents [..., T, H, W] with each frequency multiplied by a response [T, H, W // 2 + 1]."""
    size = latents.shape[-3:]
    return torch.fft.irfftn(coefficients(latents) * response, s=size, dim=DIMENSIONS, norm="ortho")


def variances(latents: torch.Tensor) -> torch.Tensor:
    """The mean square [T, H, W // 2 + 1] of each coefficient of latents [B, C, T, H, W].

    It is averaged over samples, channels, and frequencies that differ only in direction, so a few videos are
    enough.
    """
    squares = coefficients(latents).abs().square().mean(dim=(0, 1))
    index = bands(latents.shape[-3:]).flatten()
    count = int(index.max()) + 1
    sums = torch.zeros(count).index_add(0, index, squares.flatten())
    sizes = torch.zeros(count).index_add(0, index, torch.ones(len(index)))
    return (sums / sizes)[index].reshape(squares.shape).clamp(min=LEAST_VARIANCE)


def bands(size: torch.Size) -> torch.Tensor:
    """The band index [T, H, W // 2 + 1] of each frequency. A band has one temporal frequency and one rounded
    spatial frequency in cycles per longer side of the frame.
    """
    frames, height, width = size
    temporal = (torch.fft.fftfreq(frames) * frames).abs().round().long()
    rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    spatial = (torch.hypot(rows[:, None], columns) * max(height, width)).round().long()
    return temporal[:, None, None] * (int(spatial.max()) + 1) + spatial


def multiplicity(size: torch.Size) -> torch.Tensor:
    """The number of coefficients of the full spectrum per column [W // 2 + 1]: 1 or 2."""
    width = size[-1]
    counts = torch.full((width // 2 + 1,), 2.0)
    counts[0] = 1.0
    if width % 2 == 0:
        counts[-1] = 1.0
    return counts


def levels(spectrum: torch.Tensor, count: int) -> list[float]:
    """Values from the minimum to the maximum of a spectrum, evenly spaced in their logarithms."""
    first, last = (math.log(float(end)) for end in (spectrum.min(), spectrum.max()))
    return [math.exp(first + (last - first) * place / (count - 1)) for place in range(count)]


def between(spectrum: torch.Tensor, at: list[float], values: torch.Tensor) -> torch.Tensor:
    """Interpolate values [levels, steps] to the entries of a spectrum: [steps, *spectrum.shape].

    Linear in the logarithm of the level.
    """
    known = torch.tensor(at).log()
    wanted = spectrum.log().contiguous()
    upper = torch.searchsorted(known, wanted).clamp(1, len(at) - 1)
    share = ((wanted - known[upper - 1]) / (known[upper] - known[upper - 1]).clamp(min=1e-12)).clamp(0, 1)
    rows = values[upper - 1] + share[..., None] * (values[upper] - values[upper - 1])
    return rows.movedim(-1, 0)


def weighted_tables(
    predictions: torch.Tensor, gains: torch.Tensor, window: int, samples: int
) -> list[torch.Tensor]:
    """One table per sample like `collect.Trace.reused`, for a cache that keeps predictions: real numbers
    [steps, window + 1, samples], multiplied by the gain of their frequency in each step.

    predictions: [steps, B, C, T, H, W]. gains: [steps, T, H, W // 2 + 1]. The coefficients are those in which
    the weighted predictions change most.
    """
    counts = multiplicity(predictions.shape).sqrt()

    def transformed() -> Iterator[torch.Tensor]:
        """Coefficients [B, C, T, H, W // 2 + 1] of one step after another: those of all need much memory."""
        return (coefficients(step) * counts for step in predictions)

    steps = zip(pairwise(transformed()), gains[1:])
    changes = sum((row - before).abs().square().mean(dim=0) * gain.square() for (before, row), gain in steps)
    places = changes.flatten().topk(min(samples // 2, changes.numel())).indices.sort().values
    rows = torch.stack([row.flatten(1)[:, places] for row in transformed()], dim=1)  # [B, steps, numbers]
    weights = gains.flatten(1)[:, places % gains[0].numel()].repeat_interleave(2, dim=1)
    return [table_of(torch.view_as_real(row).flatten(1), weights, window) for row in rows]


def table_of(rows: torch.Tensor, weights: torch.Tensor, window: int) -> torch.Tensor:
    """The rows [steps, numbers] of each step and of the `window` steps before it, multiplied by the weights
    [steps, numbers] of that step: [steps, window + 1, numbers], nan before the first step.
    """
    table = torch.full((len(rows), window + 1, rows.shape[1]), float("nan"))
    for back in range(min(window + 1, len(rows))):
        table[back:, back] = rows[: len(rows) - back] * weights[back:]
    return table
