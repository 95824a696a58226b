"""Caches for calibration: one records signals in full runs, one adds a given residual."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch

from videosys.cache.base import Cache, RecordedCache, Signal
from videosys.cache.teacache import l1_sums
from videosys.utils.devices import in_float64


class SignalRecorder(RecordedCache):
    """Computes every step, measures how signals and residuals change, and keeps the last residuals.

    kinds: of signals: modulated, timestep. window: number of kept residuals.
    distances: for each kind and for `residual`, the relative L1 change (arXiv 2411.19108, equation 4) from
        the previous step, starting at the second step. ratios: likewise the mean over tokens of the
        residual's norm divided by that of the previous step (MagCache). residuals: (step, residual), newest
        first.
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


class PrecomputedResidual(Cache):
    """Skips every step and adds the same residual."""

    def __init__(self, residual: torch.Tensor):
        self.residual = residual

    def should_compute(self, signal: Signal) -> bool:
        return False

    def reuse(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.residual


def length_ratio(current: torch.Tensor, previous: torch.Tensor) -> float:
    """The mean over tokens of |current| / |previous|, with norms over the last dim; skips tokens of norm
    0.
    """
    norms, before = (in_float64(tensor.float().norm(dim=-1)) for tensor in (current, previous))
    nonzero = before > 0
    return float((norms[nonzero] / before[nonzero]).mean())


def relative_change(current: torch.Tensor, previous: torch.Tensor) -> float:
    """sum|current - previous| / sum|previous| (arXiv 2411.19108, equation 4); nan if the divisor is 0."""
    numerator, denominator = l1_sums(current, previous)
    return numerator / denominator if denominator else float("nan")
