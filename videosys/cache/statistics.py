"""Statistics of a cache in one generation: numbers, a line of text, a plot."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videosys.cache.base import StepRecord
from videosys.utils.plots import line_axes, save_figure


@dataclass(frozen=True)
class CacheStatistics:
    """Statistics of a cache in one generation. `str()` returns one line.

    computed: model evaluations whose blocks ran, of `total`. reused: number of reused branches (PAB).
    mean_distance, largest_distance: of the measured relative L1 changes, or None.
    digest: equal for two generations with equal decisions. bytes_held: peak bytes that the cache of this
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
    """A hash of the decisions (computed steps, number of reused branches per step), 8 hexadecimal digits."""
    decisions = ",".join(f"{int(step.computed)}:{step.reused}" for step in steps)
    return hashlib.sha256(decisions.encode()).hexdigest()[:8]


def plot_steps(steps: Sequence[StepRecord], path: str | Path, threshold: float | None = None) -> Path:
    """Save a PNG plot of the measurements per step and return its path; ticks mark computed steps.

    threshold: drawn as a line. Without measurements, the plot has the reused branches of each step (PAB), or
    the computed steps (a fixed schedule). ValueError without matplotlib or without steps.
    """
    if not steps:
        raise ValueError("there are no steps to plot")
    summary = cache_statistics(steps)
    reused = f", {summary.reused} branches reused" if summary.reused else ""
    label, curves = step_curves(steps)
    axes = line_axes(
        f"computed {summary.computed} of {summary.total} steps{reused}", "step", label, whole_x=True
    )
    for name, values in curves.items():
        axes.plot([step.step for step in steps], values, marker="o", markersize=3, label=name)
    if threshold is not None:
        axes.axhline(threshold, color="tab:green", label="threshold")
    computed = [step.step for step in steps if step.computed]
    axes.plot(computed, [0.02] * len(computed), "k|", transform=axes.get_xaxis_transform(), label="computed")
    return save_figure(axes, path)


def step_curves(steps: Sequence[StepRecord]) -> tuple[str, dict[str, list[float]]]:
    """(label of the y axis, values by the name of a curve); nan where a step has none."""
    if any(step.distance is not None for step in steps):
        pairs = [(step.distance, step.accumulated) for step in steps]
        # None leaves a gap in a curve.
        columns = ([math.nan if value is None else value for value in column] for column in zip(*pairs))
        return "relative L1 change", dict(zip(("of the signal", "accumulated, rescaled"), columns))
    if any(step.reused for step in steps):
        return "branches", {"branches reused": [float(step.reused) for step in steps]}
    return "1: computed, 0: reused", {"decision": [float(step.computed) for step in steps]}
