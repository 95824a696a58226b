"""Generate videos with Open-Sora-Plan v1.1.0 for the paper's table: python experiments/open_sora_plan.py

65 frames of 512 x 512, 150 steps (--version v120 for v1.2.0), without a cache and with TeaCache. Uses
VBench's prompts (from a vbench on this machine, or --prompts FILE) with five seeds each. To share the list
among several devices: torchrun --nproc-per-node 8 experiments/open_sora_plan.py
"""

from __future__ import annotations

from videosys import leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments import runner

STUDY = runner.Study.of("open_sora_plan", usual="v110")


def main(argv: Sequence[str] | None = None) -> int:
    return runner.main(STUDY, argv, __doc__)


if __name__ == "__main__":
    sys.exit(main())
