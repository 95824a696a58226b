"""What a request tells while it runs, and how it is stopped before its end."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch

from videosys.parallel import Parallel
from videosys.utils.settled import unsettled
from videosys.utils.typed import check_types

Stage = Literal["encode", "denoise", "decode"]


class Cancelled(Exception):
    """A request was stopped before its end. A callback may raise it to stop its request."""


@dataclass(frozen=True)
class StepProgress:
    """A step of a request is done.

    stage: encode (a step is a text), denoise (a model evaluation) or decode (a frame). step, of: how many of
    the steps of this stage are done, of how many; for the clip that is at work.
    computed: whether the transformer's blocks ran; False where the cache replaced them.
    eta: seconds until the end of the request as estimated from the steps measured so far, without the loading
    of weights; None before the first model evaluation.
    """

    stage: Stage
    step: int
    of: int
    computed: bool = True
    eta: float | None = None

    def __post_init__(self) -> None:
        check_types(self)


class Watch:
    """One request as seen from outside: its progress, and a way to stop it. Threads may share it."""

    def __init__(self, callback: Callable[[StepProgress], object] | None = None):
        """callback: called with each step. What it returns is ignored; what it raises stops the request."""
        self.progress: StepProgress | None = None
        self.error: Exception | None = None
        self._callback, self._lock = callback, threading.Lock()
        self._on_stop: Callable[[], object] | None = None

    def tell(self, progress: StepProgress) -> None:
        """Passes on that a step is done; nothing after the request was stopped."""
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
        """Has the request end with this error before its next step. The first of several errors counts."""
        with self._lock:
            if self.error is not None:
                return
            self.error = error
        if self._on_stop is not None:
            self._on_stop()

    def when_stopped(self, notify: Callable[[], object]) -> None:
        """Sets what is called when the request is stopped; at once where it was stopped already."""
        with self._lock:
            self._on_stop = notify
            is_stopped = self.error is not None
        if is_stopped:
            notify()


@dataclass
class Pace:
    """Seconds per step of each stage, as last measured, and the clips that are still to begin."""

    clips_left: int = 0
    seconds: dict[str, tuple[float, int]] = field(default_factory=dict)  # of so many steps
    begin: float = 0.0

    def eta(self, stage: str, step: int, of: int) -> float | None:
        """Seconds until the end of the request, `step` steps after the beginning of a stage."""
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
    """A request as its pipeline sees it: steps are told, and between them the request may be stopped.

    Without a watch nothing is told, and devices exchange nothing.
    """

    def __init__(self, watch: Watch | None = None, parallel: Parallel = Parallel()):
        self.watch, self.parallel = watch, parallel
        self.pace = Pace()
        self.stage: Stage = "encode"
        self.step, self.of = 0, 0

    def expect(self, num_clips: int) -> None:
        """Sets how many clips this device's share of the request has."""
        self.pace.clips_left = num_clips

    def begin(self, stage: Stage, of: int) -> None:
        """Begins a stage of so many steps, unless the request was stopped."""
        self.stage, self.step, self.of = stage, 0, of
        self.pace.begin = time.perf_counter()
        if stage == "denoise":
            self.pace.clips_left = max(0, self.pace.clips_left - 1)
        self.check()

    def advance(self, count: int = 1, computed: bool = True) -> None:
        """Tells that so many steps are done, which all devices of the replica do together.

        Raises what stopped the request.
        """
        self.tell(count, computed)
        self.check()

    def tell(self, count: int = 1, computed: bool = True) -> None:
        """Tells that so many steps are done; another device may have done them."""
        self.step = min(self.step + count, self.of)
        if self.watch is not None and count:
            eta = self.pace.eta(self.stage, self.step, self.of)
            self.watch.tell(StepProgress(self.stage, self.step, self.of, computed, eta))

    def check(self) -> None:
        """Raises what stopped the request, on all devices of the replica if on any: each must call it."""
        if self.watch is None:
            return
        own = self.watch.error
        stopped = self.parallel.gather_rows(torch.tensor([float(own is not None)]))
        if bool(stopped.any()):
            raise own or Cancelled("the request was cancelled")


def forget_frames(error: BaseException) -> None:
    """Frees what the frames of a traceback hold, such as a cache, while the error is kept."""
    traceback.clear_frames(error.__traceback__)
