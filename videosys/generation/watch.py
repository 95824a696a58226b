"""Progress and cancellation of running requests."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from videosys.parallel import Parallel
from videosys.utils.devices import host_row
from videosys.utils.settled import unsettled
from videosys.utils.typed import check_types, shown

Stage = Literal["encode", "denoise", "decode"]


class Cancelled(Exception):
    """A request was cancelled. A callback can raise it to cancel its request."""


@dataclass(frozen=True)
class StepProgress:
    """A completed step of a request.

    stage: encode (a step is a text), denoise (a model evaluation) or decode (a frame). step, of: completed
    and total steps of this stage, for the current clip. computed: whether the transformer's blocks ran; False
    if the cache replaced them. eta: estimated seconds until the end of the request, from the measured steps,
    without loading weights; None before the first model evaluation.
    """

    stage: Stage
    step: int
    of: int
    computed: bool = True
    eta: float | None = None

    def __post_init__(self) -> None:
        check_types(self)


class Watch:
    """Progress and cancellation of one request. Thread-safe."""

    def __init__(self, callback: Callable[[StepProgress], object] | None = None):
        """callback: called with each step. Its result is ignored; an error in it stops the request.

        ValueError for anything that cannot be called.
        """
        if callback is not None and not callable(callback):
            raise ValueError(f"callback is {shown(callback)}; it must be a function of a StepProgress")
        self.progress: StepProgress | None = None
        self.error: Exception | None = None
        self._callback, self._lock = callback, threading.Lock()
        self._on_stop: Callable[[], object] | None = None

    def tell(self, progress: StepProgress) -> None:
        """Report a step, unless the request was stopped."""
        if self.error is not None:
            return
        self.progress = progress
        if self._callback is not None:
            try:
                with unsettled():
                    self._callback(progress)
            except Exception as error:
                self.stop(error)

    def stop(self, error: Exception) -> None:
        """End the request with this error before its next step. The first of several errors is used."""
        with self._lock:
            if self.error is not None:
                return
            self.error = error
        if self._on_stop is not None:
            self._on_stop()

    def when_stopped(self, notify: Callable[[], object]) -> None:
        """Set a function to call when the request is stopped; called immediately if it already is."""
        with self._lock:
            self._on_stop = notify
            is_stopped = self.error is not None
        if is_stopped:
            notify()


@dataclass
class Pace:
    """The last measured seconds per step of each stage, and the number of clips left."""

    clips_left: int = 0
    seconds: dict[str, tuple[float, int]] = field(default_factory=dict)  # (seconds per step, number of steps)
    begin: float = 0.0

    def eta(self, stage: str, step: int, of: int) -> float | None:
        """Seconds until the end of the request, after `step` steps of a stage."""
        self.seconds[stage] = ((time.perf_counter() - self.begin) / step, of)
        if "denoise" not in self.seconds:
            return None
        left = (of - step) * self.seconds[stage][0]
        if stage == "denoise":
            left += self._whole("decode")
        return left + self.clips_left * (self._whole("denoise") + self._whole("decode"))

    def _whole(self, stage: str) -> float:
        seconds, steps = self.seconds.get(stage, (0.0, 0))
        return seconds * steps


class Monitor:
    """The pipeline's view of a request: reports steps and checks for cancellation between them.

    Without a watch there are no reports and no communication.
    """

    def __init__(self, watch: Watch | None = None, parallel: Parallel = Parallel()):
        self.watch, self.parallel = watch, parallel
        self.pace = Pace()
        self.stage: Stage = "encode"
        self.step, self.of = 0, 0

    def expect(self, num_clips: int) -> None:
        """Set the number of clips in this device's share of the request."""
        self.pace.clips_left = num_clips

    def begin(self, stage: Stage, of: int) -> None:
        """Begin a stage with this number of steps, unless the request was stopped."""
        self.stage, self.step, self.of = stage, 0, of
        self.pace.begin = time.perf_counter()
        if stage == "denoise":
            self.pace.clips_left = max(0, self.pace.clips_left - 1)
        self.check()

    def advance(self, count: int = 1, computed: bool = True) -> None:
        """Report steps that all devices of the replica run together.

        Raises the error that stopped the request.
        """
        self.tell(count, computed)
        self.check()

    def tell(self, count: int = 1, computed: bool = True) -> None:
        """Report steps, possibly run by another device."""
        self.step = min(self.step + count, self.of)
        if self.watch is not None and count:
            eta = self.pace.eta(self.stage, self.step, self.of)
            self.watch.tell(StepProgress(self.stage, self.step, self.of, computed, eta))

    def check(self) -> None:
        """Raise the error that stopped the request on any device of the replica. All devices must call it."""
        if self.watch is None:
            return
        own = self.watch.error
        stopped = self.parallel.gather_rows(host_row([own is not None]))
        if bool(stopped.any()):
            raise own or Cancelled("the request was cancelled")


def forget_frames(error: BaseException) -> None:
    """Free the objects in the frames of a traceback, such as a cache, but keep the error."""
    traceback.clear_frames(error.__traceback__)
