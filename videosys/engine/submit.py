"""Submitted requests, computed one after the other by a thread of the engine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent import futures

from videosys.generation.request import VideoOutput
from videosys.generation.watch import Cancelled, StepProgress, Watch


class Handle:
    """A request submitted with `engine.submit`."""

    def __init__(self, future: futures.Future[VideoOutput], watch: Watch):
        self._future, self._watch = future, watch

    @property
    def progress(self) -> StepProgress | None:
        """The last completed step; None before the first."""
        return self._watch.progress

    @property
    def is_done(self) -> bool:
        """Whether `result` returns or raises without waiting."""
        return self._future.done()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to this many seconds; return whether the request has ended."""
        with contextlib.suppress(futures.TimeoutError, futures.CancelledError):
            self._future.exception(within_range(timeout))
        return self._future.done()

    def cancel(self) -> bool:
        """Ends the request before its next step, with `Cancelled`. False if it has already ended."""
        if self._future.done():
            return False
        self._watch.stop(Cancelled("the request was cancelled"))
        self._future.cancel()
        return True

    def result(self, timeout: float | None = None) -> VideoOutput:
        """Waits for the videos. Raises the error that ended the request: `Cancelled` after `cancel` and
        after `engine.close()`, and the errors of `engine.generate`. TimeoutError after `timeout` seconds; the
        request continues.
        """
        try:
            return self._future.result(within_range(timeout))
        except futures.TimeoutError:
            if self._future.done():  # the request's own error
                raise
            raise TimeoutError(f"the request has not ended within {timeout:g} s") from None
        except futures.CancelledError:
            raise self._watch.error or Cancelled("the engine was closed") from None


def within_range(timeout: float | None) -> float | None:
    """A timeout in seconds that the system can wait for: infinity becomes centuries."""
    return None if timeout is None else min(timeout, threading.TIMEOUT_MAX)


class Submissions:
    """A thread for submitted requests, started with the first one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: futures.ThreadPoolExecutor | None = None

    def add(self, run: Callable[[], VideoOutput], watch: Watch) -> Handle:
        """The handle of a request, which `run` computes after the previous ones."""
        with self._lock:
            if self._executor is None:
                self._executor = futures.ThreadPoolExecutor(1, thread_name_prefix="videosys-submit")
            return Handle(self._executor.submit(run), watch)

    def close(self) -> None:
        """Cancels the requests that have not started."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
