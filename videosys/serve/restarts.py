"""When a process that has ended is started again: at once, or after a pause where it ends again and again."""

from __future__ import annotations

LONGEST_PAUSE = 30.0
STEADY_SECONDS = 60.0  # a process that has lived so long is started again at once


def ends_in_a_row(ends: int, lived: float) -> int:
    """The number of early ends in a row: `ends` before, and now after this many seconds."""
    return 0 if lived > STEADY_SECONDS else ends + 1


def pause(ends: int) -> float:
    """Seconds to wait before the next start."""
    return min(LONGEST_PAUSE, 0.5 * 2 ** min(ends - 2, 10)) if ends > 1 else 0.0
