"""How like two videos are: PSNR and SSIM, by the definitions that the caching papers use."""

from __future__ import annotations

from videosys.metrics.psnr import psnr
from videosys.metrics.ssim import ssim

__all__ = ["psnr", "ssim"]
