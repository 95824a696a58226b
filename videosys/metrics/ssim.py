"""Structural similarity (Wang et al., 2004), frame by frame."""

from __future__ import annotations

import torch

from videosys.metrics.frames import Video, check_pair, pieces
from videosys.utils.devices import CPU
from videosys.utils.settled import settle

WINDOW = 11
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2
FRAMES = 4


@settle
def ssim(video: Video, reference: Video, device: torch.device | str | None = None) -> torch.Tensor:
    """The SSIM of each frame, float64 [T] on the CPU; a video's is their mean.

    It is computed per channel in [0, 1], with a Gaussian window of 11 x 11 and standard deviation 1.5,
    without padding, and averaged over channels. Videos are [T, H, W, C], uint8 or floating in [0, 1].
    ValueError for frames smaller than the window.
    """
    pair = check_pair(video, reference)
    height, width = pair[0].shape[1:3]
    if min(height, width) < WINDOW:
        raise ValueError(f"frames are {height} x {width}; SSIM needs {WINDOW} x {WINDOW} or more")
    bands = band(height), band(width)
    parts = pieces(pair, FRAMES, device, torch.float64)
    return torch.cat([_ssim(x, y, *(item.to(x.device) for item in bands)).cpu() for x, y in parts])


def band(size: int) -> torch.Tensor:
    """The matrix [size - 10, size] that applies the window to a vector without padding.

    Two products with such matrices are several times faster on a CPU than a convolution in float64, which is
    needed for the differences of squares below.
    """
    distance = torch.arange(WINDOW, dtype=torch.float64, device=CPU) - WINDOW // 2
    weights = (-0.5 * (distance / SIGMA).square()).exp()
    matrix = torch.zeros(size - WINDOW + 1, size, dtype=torch.float64, device=CPU)
    for offset, weight in enumerate(weights / weights.sum()):
        matrix.diagonal(offset).fill_(weight)
    return matrix


def _ssim(x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    def local_mean(values: torch.Tensor) -> torch.Tensor:
        return rows @ values @ columns.T

    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x = local_mean(x * x) - mean_x * mean_x
    variance_y = local_mean(y * y) - mean_y * mean_y
    covariance = local_mean(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    size = (mean_x * mean_x + mean_y * mean_y + C1) * (variance_x + variance_y + C2)
    return (likeness / size).mean(dim=(1, 2, 3))
