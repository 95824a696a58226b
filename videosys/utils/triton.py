"""Whether kernels written in Triton can run."""

from __future__ import annotations

import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import torch

COMPILERS = ("gcc", "clang")  # for the launchers of the kernels
OLDEST = (8, 0)  # compute capability: Ampere, the first with bfloat16


def can_launch() -> bool:
    """Whether triton is installed and can build the launchers of its kernels: a C compiler and Python's
    headers are needed.
    """
    program = os.environ.get("CC")
    headers = Path(sysconfig.get_config_var("INCLUDEPY") or "", "Python.h")
    has_compiler = any(shutil.which(name) for name in ((program,) if program else COMPILERS))
    return has_compiler and headers.is_file() and find_spec("triton") is not None


CAN_LAUNCH = can_launch()  # once: it looks for files


def runs_triton(device: torch.device) -> bool:
    """Whether kernels run on a device: an Ampere or newer GPU, with triton installed."""
    if device.type != "cuda" or not CAN_LAUNCH or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) >= OLDEST
