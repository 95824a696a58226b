"""The pause before a process is restarted. It grows with each consecutive early end."""

from __future__ import annotations

LONGEST_PAUSE = 30.0
STEADY_SECONDS = 60.0  # a process that ran this long is restarted without a pause


def ends_in_a_row(ends: int, lived: float) -> int:
    """The number of consecutive early ends: `ends` + 1, or 0 if the process `lived` long enough."""
    return 0 if lived > STEADY_SECONDS else ends + 1


def pause(ends: int) -> float:
    """Seconds to wait before the next start."""
    return min(LONGEST_PAUSE, 0.5 * 2 ** min(ends - 2, 10)) if ends > 1 else 0.0
