"""Ctrl-C: one line and status 130 at any time, even if a library changes the exception."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130  # exit status


def leave_at_interrupt() -> None:
    """Make Ctrl-C end this process at once, with one line, until `exit_status` takes over.

    For the first lines of a program, before slow imports: no open file can be damaged yet.
    """
    if _is_ours():
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def _is_ours() -> bool:
    """Whether Ctrl-C can be handled here: not in a thread, nor if the caller ignores or handles it."""
    own = (signal.default_int_handler, _leave)
    return threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) in own


@contextlib.contextmanager
def noticed_interrupt() -> Iterator[threading.Event]:
    """Yield an event that is set by Ctrl-C, even if a library changes the exception."""
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
    """Raise KeyboardInterrupt if an error was caused by one: an interrupted file is not damaged."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if isinstance(current, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        seen.add(id(current))
        current = current.__cause__ or current.__context__
