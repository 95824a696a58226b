"""Similarity of two videos: PSNR, SSIM and LPIPS, with the definitions of the caching papers."""

from __future__ import annotations

from videosys.metrics.lpips import Lpips, load_lpips
from videosys.metrics.psnr import psnr
from videosys.metrics.ssim import ssim

__all__ = ["Lpips", "load_lpips", "psnr", "ssim"]
