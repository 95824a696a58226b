"""Peak signal-to-noise ratio, frame by frame."""

from __future__ import annotations

import torch

from videosys.metrics.frames import Video, check_pair, pieces
from videosys.utils.settled import settle

CAP = 100.0  # dB, for equal frames
EQUAL = 1e-10  # mean squared error below which frames are equal
FRAMES = 16


@settle
def psnr(video: Video, reference: Video, device: torch.device | str | None = None) -> torch.Tensor:
    """The PSNR in dB of each frame, float64 [T] on the CPU; a video's is their mean.

    10 log10(1 / MSE), with the mean squared error over pixels and channels in [0, 1]. Equal frames (MSE below
    1e-10) count as 100 dB. Videos are [T, H, W, C], uint8 or floating in [0, 1].
    """
    pair = check_pair(video, reference)
    parts = [
        (x - y).square().mean(dim=(1, 2, 3)).cpu() for x, y in pieces(pair, FRAMES, device, torch.float64)
    ]
    error = torch.cat(parts)
    return torch.where(error < EQUAL, CAP, -10 * error.log10())
