"""Generates videos with Open-Sora: python examples/opensora/sample.py [--config FILE] [key=value ...]

Without --config, the published checkpoint is used if there is a CUDA device, else the bundled tiny one.
"""

from __future__ import annotations

from videosys import leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import sys
from collections.abc import Sequence
from pathlib import Path

from videosys import FAMILIES

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import common


def main(argv: Sequence[str] | None = None) -> int:
    return common.main(common.Example(FAMILIES["opensora"], HERE, __doc__), argv)


if __name__ == "__main__":
    sys.exit(main())
