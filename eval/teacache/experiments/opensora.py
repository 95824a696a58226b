"""Generate videos with Open-Sora v1.2 for the paper's table: python experiments/opensora.py

51 frames of 480p, 30 steps, without a cache and with TeaCache. Uses VBench's prompts (from a vbench on this
machine, or --prompts FILE) with five seeds each. To share the list among several devices:
torchrun --nproc-per-node 8 experiments/opensora.py
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

STUDY = runner.Study.of("opensora")


def main(argv: Sequence[str] | None = None) -> int:
    return runner.main(STUDY, argv, __doc__)


if __name__ == "__main__":
    sys.exit(main())
