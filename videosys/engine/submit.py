"""Requests that are handed in now and computed one after the other by a thread of the engine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent import futures

from videosys.generation.request import VideoOutput
from videosys.generation.watch import Cancelled, StepProgress, Watch


class Handle:
    """A request that was handed in with `engine.submit`."""

    def __init__(self, future: futures.Future[VideoOutput], watch: Watch):
        self._future, self._watch = future, watch

    @property
    def progress(self) -> StepProgress | None:
        """The last step that is done; None before the first."""
        return self._watch.progress

    @property
    def is_done(self) -> bool:
        """Whether `result` returns or raises at once."""
        return self._future.done()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the request has ended, after so many seconds at most."""
        with contextlib.suppress(futures.TimeoutError, futures.CancelledError):
            self._future.exception(timeout)
        return self._future.done()

    def cancel(self) -> bool:
        """Has the request end before its next step, with `Cancelled`. False where it had ended already."""
        if self._future.done():
            return False
        self._watch.stop(Cancelled("the request was cancelled"))
        self._future.cancel()
        return True

    def result(self, timeout: float | None = None) -> VideoOutput:
        """The videos, waited for. What ended the request otherwise is raised: `Cancelled` after `cancel` and
        after `engine.close()`, and the errors of `engine.generate`. TimeoutError after `timeout` seconds; the
        request goes on.
        """
        try:
            return self._future.result(timeout)
        except futures.TimeoutError:
            if self._future.done():  # the request's own error
                raise
            raise TimeoutError(f"the request has not ended within {timeout:g} s") from None
        except futures.CancelledError:
            raise self._watch.error or Cancelled("the engine was closed") from None


class Submissions:
    """A thread for requests that are handed in; it starts with the first of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: futures.ThreadPoolExecutor | None = None

    def add(self, run: Callable[[], VideoOutput], watch: Watch) -> Handle:
        """The handle of a request, computed by `run` when those before it have ended."""
        with self._lock:
            if self._executor is None:
                self._executor = futures.ThreadPoolExecutor(1, thread_name_prefix="videosys-submit")
            return Handle(self._executor.submit(run), watch)

    def close(self) -> None:
        """Cancels the requests that have not begun."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
