"""How much a policy leaves to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from videosys import CacheConfig, NoCacheConfig, ScheduleConfig
from videosys.calibration import Clips, Journal, Measured, policy_key


def operations(clip: Clips, policy: CacheConfig) -> int:
    """Floating-point operations of one run, counted while it runs."""
    counter = FlopCounterMode(display=False)
    # Kernels of oneDNN and fused attention would not be counted.
    quiet = torch.backends.mkldnn.flags(enabled=False, allow_tf32=None)  # which warns where it is set
    with torch.no_grad(), quiet, sdpa_kernel(SDPBackend.MATH), counter:
        Clips.run.__wrapped__(clip, policy)  # outside the settled context, in which none of this would hold
    return counter.get_total_flops()


class Work:
    """Operations of policies as shares of those of the full run."""

    def __init__(self, clip: Clips, steps: int, journal: Journal):
        self.clip, self.steps, self.journal = clip, steps, journal
        few = (0, steps - 1)
        share = self.of_policy(ScheduleConfig(computed=few))
        self.skipped = (share - len(few) / steps) / (1 - len(few) / steps)

    def of_policy(self, policy: CacheConfig) -> float:
        """Counted, for policies whose work is not said by their computed steps."""
        full = self.journal.result("work full", lambda: operations(self.clip, NoCacheConfig()))
        return self.journal.result(f"work {policy_key(policy)}", lambda: operations(self.clip, policy)) / full

    def of_rows(self, rows: Sequence[Measured]) -> float:
        """By the mean number of computed steps; the others only embed and project."""
        share = sum(row.computed for row in rows) / len(rows) / self.steps
        return share + (1 - share) * self.skipped
