"""What a calibration watches: full runs whose signals are measured, and steps with a given residual."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch

from videosys.cache.base import Cache, RecordedCache, Signal
from videosys.cache.teacache import l1_sums


class Recorder(RecordedCache):
    """Computes every step, measures how the signals and the residual change, and keeps the last residuals.

    kinds: of signals, as a model's `signal` knows them. window: how many residuals are kept.
    distances: per kind, and for `residual`, the relative L1 change (paper, equation 4) to the step before,
        from the second step on. ratios: likewise the mean over tokens of a residual's length over that of the
        step before (what MagCache goes by). residuals: (step, residual), newest first.
    """

    def __init__(self, kinds: Sequence[str] = ("timestep", "modulated"), window: int = 1):
        super().__init__()
        self.kinds = tuple(kinds)
        self.distances: dict[str, list[float]] = {kind: [] for kind in (*kinds, "residual")}
        self.residuals: deque[tuple[int, torch.Tensor]] = deque(maxlen=window)
        self.ratios: list[float] = []
        self._previous: dict[str, torch.Tensor] = {}

    def should_compute(self, signal: Signal) -> bool:
        for kind in self.kinds:
            self._measure(kind, signal(kind))
        return super().should_compute(signal)

    def store(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        residual = after - before
        if "residual" in self._previous:
            self.ratios.append(length_ratio(residual, self._previous["residual"]))
        self._measure("residual", residual)
        self.residuals.appendleft((self.step, residual))
        return after

    def _measure(self, kind: str, current: torch.Tensor) -> None:
        previous, self._previous[kind] = self._previous.get(kind), current
        if previous is not None:
            self.distances[kind].append(relative_change(current, previous))


class Given(Cache):
    """Computes no step: all of them take the residual that is given."""

    def __init__(self, residual: torch.Tensor):
        self.residual = residual

    def should_compute(self, signal: Signal) -> bool:
        return False

    def reuse(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.residual


def length_ratio(current: torch.Tensor, previous: torch.Tensor) -> float:
    """The mean over tokens of |current| / |previous|, with the length over channels; tokens of no length are
    left out.
    """
    lengths, before = (tensor.float().norm(dim=-1).double() for tensor in (current, previous))
    seen = before > 0
    return float((lengths[seen] / before[seen]).mean())


def relative_change(current: torch.Tensor, previous: torch.Tensor) -> float:
    """sum|current - previous| / sum|previous| (paper, equation 4); nan where `previous` is zero."""
    numerator, denominator = l1_sums(current, previous)
    return numerator / denominator if denominator else float("nan")
