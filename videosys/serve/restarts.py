"""The pause before an ended process is restarted, which grows if it ends repeatedly."""

from __future__ import annotations

LONGEST_PAUSE = 30.0
STEADY_SECONDS = 60.0  # after this time a process is restarted at once


def ends_in_a_row(ends: int, lived: float) -> int:
    """The number of consecutive early ends: `ends` before, and one more unless it `lived` long enough."""
    return 0 if lived > STEADY_SECONDS else ends + 1


def pause(ends: int) -> float:
    """Seconds to wait before the next start."""
    return min(LONGEST_PAUSE, 0.5 * 2 ** min(ends - 2, 10)) if ends > 1 else 0.0
