"""Names of diffusers and transformers, which are imported when they are first needed, by any thread."""

from __future__ import annotations

import importlib
import sys
import threading
from typing import Any

import torch

LOCK = threading.RLock()


def imported(package: str, name: str) -> Any:
    """A name of diffusers or transformers, or of one of their modules.

    Both replace their modules at the end of the import. A thread whose import statement waits for that of
    another thread gets the incomplete module and an ImportError. Their modules compute with tensors while
    they are imported, here always on the CPU: models are built on the meta device, where older versions of
    torch end such an import with an error.
    """
    with LOCK, torch.device("cpu"):
        importlib.import_module(package)
        return getattr(sys.modules[package], name)
