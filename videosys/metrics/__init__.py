"""How like two videos are: PSNR, SSIM and LPIPS, by the definitions that the caching papers use."""

from __future__ import annotations

from videosys.metrics.lpips import Lpips, load_lpips
from videosys.metrics.psnr import psnr
from videosys.metrics.ssim import ssim

__all__ = ["Lpips", "load_lpips", "psnr", "ssim"]
