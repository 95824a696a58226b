"""Ctrl-C: one line and status 130, at whatever moment it comes and whatever a library makes of it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130  # exit status


def leave_at_interrupt() -> None:
    """From now on Ctrl-C ends this process at once, with one line; `exit_status` takes over from there.

    For the first lines of a program, before imports of seconds: nothing is open yet that could be damaged.
    """
    if _is_ours():
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def _is_ours() -> bool:
    """Whether Ctrl-C may be handled here: not in a thread, nor where the caller ignores or handles it."""
    own = (signal.default_int_handler, _leave)
    return threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) in own


@contextlib.contextmanager
def noticed_interrupt() -> Iterator[threading.Event]:
    """Yield an event that is set once Ctrl-C was pressed, whatever a library makes of the exception."""
    event = threading.Event()

    def notice(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.default_int_handler(number, frame)

    if not _is_ours():
        yield event
        return
    previous = signal.signal(signal.SIGINT, notice)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)


def raise_interrupt(error: BaseException) -> None:
    """Raise KeyboardInterrupt where an error was made of one: what was interrupted is not damaged."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if isinstance(current, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        seen.add(id(current))
        current = current.__cause__ or current.__context__
