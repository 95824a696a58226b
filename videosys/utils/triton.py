"""Whether kernels written in Triton can run."""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import torch

COMPILERS = ("gcc", "clang")  # for the launchers of the kernels
OLDEST = (8, 0)  # compute capability: Ampere, the first with bfloat16
OLDEST_TRITON = (3, 4)  # the first whose kernels take tuples as these do; torch 2.8 includes it


def can_launch() -> bool:
    """Whether triton is installed, is new enough, and can build the launchers of its kernels: a C compiler
    and Python's headers are needed.
    """
    program = os.environ.get("CC")
    headers = Path(sysconfig.get_config_var("INCLUDEPY") or "", "Python.h")
    has_compiler = any(shutil.which(name) for name in ((program,) if program else COMPILERS))
    return has_compiler and headers.is_file() and has_triton()


def has_triton() -> bool:
    """Whether triton is installed, in a version that supports the kernels.

    The version is read from the file of the module, because importing it is slow, and because the packages of
    triton have different names. A version that cannot be read is taken as new enough.
    """
    spec = find_spec("triton")
    if spec is None:
        return False
    file = Path(spec.origin or "")
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    found = re.search(r"^__version__ = ['\"](\d+)\.(\d+)", text, re.MULTILINE)
    return found is None or tuple(map(int, found.groups())) >= OLDEST_TRITON


CAN_LAUNCH = can_launch()  # once: it looks for files


def runs_triton(device: torch.device) -> bool:
    """Whether kernels run on a device: an Ampere or newer GPU, with triton installed."""
    if device.type != "cuda" or not CAN_LAUNCH or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) >= OLDEST
