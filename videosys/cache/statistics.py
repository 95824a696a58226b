"""Statistics of a cache in one generation: numbers, a line of text, a plot."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videosys.cache.base import StepRecord
from videosys.utils.chart import Chart


@dataclass(frozen=True)
class CacheStatistics:
    """What a cache did in one generation. str() gives it in one line.

    computed: model evaluations whose blocks ran, of `total`. reused: branches that were reused (PAB).
    mean_distance, largest_distance: of the measured relative L1 changes; None if there were none.
    digest: equal for two generations with equal decisions. bytes_held: the most bytes that the cache of this
    rank kept after a step.
    """

    computed: int
    total: int
    reused: int
    mean_distance: float | None
    largest_distance: float | None
    digest: str
    bytes_held: int

    def __str__(self) -> str:
        parts = [f"computed {self.computed} of {self.total} steps"]
        parts += [f"{self.reused} branches reused"] if self.reused else []
        if self.mean_distance is not None and self.largest_distance is not None:
            parts += [f"distances {self.mean_distance:.3g} on average, {self.largest_distance:.3g} at most"]
        parts += [f"cache {readable(self.bytes_held)}"] if self.bytes_held else []
        return ", ".join([*parts, f"decisions {self.digest}"])


def readable(count: int) -> str:
    """A number of bytes as text, in bytes, KiB, MiB or GiB."""
    units = ("bytes", "KiB", "MiB", "GiB")
    power = min(max(count.bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{count / 1024**power:.{1 if power else 0}f} {units[power]}"


def cache_statistics(steps: Sequence[StepRecord]) -> CacheStatistics:
    """The statistics of one generation. steps: one record per model evaluation."""
    distances = [step.distance for step in steps if step.distance is not None]
    return CacheStatistics(
        computed=sum(step.computed for step in steps),
        total=len(steps),
        reused=sum(step.reused for step in steps),
        mean_distance=sum(distances) / len(distances) if distances else None,
        largest_distance=max(distances, default=None),
        digest=decision_digest(steps),
        bytes_held=max((step.bytes_held for step in steps), default=0),
    )


def decision_digest(steps: Sequence[StepRecord]) -> str:
    """8 hexadecimal digits of a hash over the decisions: computed steps, and branches reused in each."""
    decisions = ",".join(f"{int(step.computed)}:{step.reused}" for step in steps)
    return hashlib.sha256(decisions.encode()).hexdigest()[:8]


def plot_steps(steps: Sequence[StepRecord], path: str | Path, threshold: float | None = None) -> Path:
    """The path of a PNG plot of the distances and their sum over the steps; a bar at the axis marks a
    computed step.

    threshold: draws a line there. Without distances the plot has the branches reused in each step (PAB), or
    the computed steps (a fixed schedule).
    """
    summary = cache_statistics(steps)
    if summary.mean_distance is not None:
        curves = {
            "relative L1 of the signal": [(step.step, _number(step.distance)) for step in steps],
            "accumulated": [(step.step, _number(step.accumulated)) for step in steps],
        }
    elif summary.reused:
        curves = {"branches reused": [(step.step, float(step.reused)) for step in steps]}
    else:
        curves = {"computed": [(step.step, float(step.computed)) for step in steps]}
    reused = f", {summary.reused} branches reused" if summary.reused else ""
    return Chart(
        title=f"computed {summary.computed} of {summary.total} steps{reused}",
        x_label="step",
        y_label="",
        curves=curves,
        marks=[step.step for step in steps if step.computed],
        levels={} if threshold is None else {"threshold": threshold},
    ).save(path)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
