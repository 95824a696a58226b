"""Plots of a calibration: how signals change over the steps, and the fits (the TeaCache paper's figures)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from videosys.cache.teacache import polynomial
from videosys.calibration.collect import SIGNALS, Trace
from videosys.calibration.fit import Fit
from videosys.utils.plots import line_axes, save_figure

OUTPUT = "output"
_SAMPLES = 61


def plot_signals(traces: Sequence[Trace], path: Path) -> Path:
    """The relative L1 change of each signal and of the output over the steps, means over the prompts."""
    axes = line_axes("Change from step to step", "step", "relative L1 change", whole_x=True)
    for name in (*SIGNALS, "residual", OUTPUT):
        means = [statistics.fmean(row) for row in zip(*(trace.distances[name] for trace in traces))]
        axes.plot(range(1, len(means) + 1), means, marker=".", label=name.replace("_", " "))
    return save_figure(axes, path)


def plot_fits(traces: Sequence[Trace], fits: Sequence[Fit], path: Path) -> Path:
    """The change of the output against that of one signal, each step of each prompt a point, and the fits."""
    signal = fits[0].signal
    label = signal.replace("_", " ")
    change = "relative L1 change of the {}".format
    axes = line_axes(f"Change of the output against the {label}", change(label), change(OUTPUT))
    points = [pair for trace in traces for pair in zip(trace.distances[signal], trace.distances[OUTPUT])]
    axes.scatter(*zip(*points), s=8, color="grey", label="steps")
    for fit in fits:
        x = np.linspace(*fit.domain, _SAMPLES).tolist()
        axes.plot(x, [polynomial(fit.coefficients, value) for value in x], label=f"degree {fit.degree}")
    return save_figure(axes, path)
