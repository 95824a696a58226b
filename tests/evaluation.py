"""The scripts of eval/teacache as modules, and videos for them."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from videosys import save_video

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "eval" / "teacache" / "vbench"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "eval" / "teacache"))

import cal_vbench
import figures
import report
import run_vbench
import scores
import tiny
import vbench_found
from common_metrics import compare
from common_metrics import eval as metrics_script
from experiments import counted as counting
from experiments import latte, making, manifest, methods, open_sora_plan, opensora, prompts, ranks, runner
from reporting import costs, draw, gpus, page, results, sections, short, work

TEACACHE = Path(report.__file__).parent

__all__ = [
    "TEACACHE",
    "cal_vbench",
    "compare",
    "costs",
    "counting",
    "draw",
    "figures",
    "gpus",
    "latte",
    "making",
    "manifest",
    "methods",
    "metrics_script",
    "open_sora_plan",
    "opensora",
    "page",
    "prompts",
    "ranks",
    "report",
    "results",
    "run_vbench",
    "runner",
    "scores",
    "sections",
    "short",
    "tiny",
    "vbench_found",
    "work",
    "write",
]


def write(path: Path, frames: int = 3, height: int = 24, width: int = 32, value: int = 100) -> Path:
    """A lossless video of moving stripes."""
    ramp = torch.arange(width)[None, None, :, None] * 3 + torch.arange(frames)[:, None, None, None] * 5
    video = (ramp + value).remainder(256).expand(frames, height, width, 3).to(torch.uint8)
    return save_video(video.contiguous(), path, fps=8, lossless=True)
