"""The spectrum of latents over time and space: the variance of each frequency, and errors by frequency.

Latents of natural videos have most of their variance at low frequencies. The response of a denoiser to an
error in its input depends on the variance of the data at that frequency (Wiener filter): a low-frequency
error at high noise stays in the video, a high-frequency error is removed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

DIMENSIONS = (-3, -2, -1)
LEAST_VARIANCE = 1e-4
Replay = Callable[[Callable[[torch.Tensor], None]], None]


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
    sums = squares.new_zeros(count).index_add(0, index, squares.flatten())
    sizes = squares.new_zeros(count).index_add(0, index, squares.new_ones(len(index)))
    return (sums / sizes)[index].reshape(squares.shape).clamp(min=LEAST_VARIANCE)


def bands(size: torch.Size) -> torch.Tensor:
    """The band index [T, H, W // 2 + 1] of each frequency. A band has one temporal frequency and one rounded
    spatial frequency in cycles per longer side of the frame.
    """
    frames, height, width = size
    temporal = (torch.fft.fftfreq(frames, device="cpu") * frames).abs().round().long()
    rows, columns = torch.fft.fftfreq(height, device="cpu"), torch.fft.rfftfreq(width, device="cpu")
    spatial = (torch.hypot(rows[:, None], columns) * max(height, width)).round().long()
    return temporal[:, None, None] * (int(spatial.max()) + 1) + spatial


def multiplicity(size: torch.Size) -> torch.Tensor:
    """The number of coefficients of the full spectrum per column [W // 2 + 1]: 1 or 2."""
    width = size[-1]
    counts = torch.full((width // 2 + 1,), 2.0, device="cpu")
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
    known = torch.tensor(at, device="cpu").log()
    wanted = spectrum.log().contiguous()
    upper = torch.searchsorted(known, wanted).clamp(1, len(at) - 1)
    share = ((wanted - known[upper - 1]) / (known[upper] - known[upper - 1]).clamp(min=1e-12)).clamp(0, 1)
    rows = values[upper - 1] + share[..., None] * (values[upper] - values[upper - 1])
    return rows.movedim(-1, 0)


def weighted_tables(replay: Replay, gains: torch.Tensor, window: int, samples: int) -> list[torch.Tensor]:
    """One table per sample like `collect.Trace.reused`, for a cache that keeps predictions: real numbers
    [steps, window + 1, samples], multiplied by the gain of their frequency in each step.

    replay: calls a function with the predictions [B, C, T, H, W] of one step after another. It is called
    twice, because the predictions of all steps need much memory. gains: [steps, T, H, W // 2 + 1]. The
    coefficients are those in which the weighted predictions change most.
    """
    changes = Changes(gains)
    replay(changes.add)
    places = changes.total.flatten().topk(min(samples // 2, changes.total.numel())).indices.sort().values
    rows: list[torch.Tensor] = []
    replay(lambda step: rows.append(counted(step).flatten(1)[:, places]))
    weights = gains.flatten(1)[:, places % gains[0].numel()].repeat_interleave(2, dim=1)
    sampled = torch.stack(rows, dim=1)  # [B, steps, numbers]
    return [table_of(torch.view_as_real(row).flatten(1), weights, window) for row in sampled]


class Changes:
    """The weighted mean square changes [C, T, H, W // 2 + 1] of coefficients from step to step, summed.

    gains: the weights [steps, T, H, W // 2 + 1].
    """

    def __init__(self, gains: torch.Tensor):
        self.total = torch.zeros((), device="cpu")
        self._gains, self._before = iter(gains), torch.empty(0, device="cpu")

    def add(self, step: torch.Tensor) -> None:
        """Add the predictions [B, C, T, H, W] of the next step."""
        row, gain = counted(step), next(self._gains)
        if len(self._before):
            self.total = self.total + (row - self._before).abs().square().mean(dim=0) * gain.square()
        self._before = row


def counted(latents: torch.Tensor) -> torch.Tensor:
    """Coefficients multiplied by the square root of their number in the full spectrum."""
    return coefficients(latents) * multiplicity(latents.shape).sqrt()


def table_of(rows: torch.Tensor, weights: torch.Tensor, window: int) -> torch.Tensor:
    """The rows [steps, numbers] of each step and of the `window` steps before it, multiplied by the weights
    [steps, numbers] of that step: [steps, window + 1, numbers], nan before the first step.
    """
    table = torch.full((len(rows), window + 1, rows.shape[1]), float("nan"), device="cpu")
    for back in range(min(window + 1, len(rows))):
        table[back:, back] = rows[: len(rows) - back] * weights[back:]
    return table
