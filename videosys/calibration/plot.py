"""Pictures of a calibration: how signals change (the paper's figures), the fits, and quality against cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from videosys.cache.teacache import polynomial
from videosys.calibration.collect import SIGNALS, Trace
from videosys.calibration.fit import Fit
from videosys.utils.chart import Chart

OUTPUT = "output"
_SAMPLES = 61


def plot_signals(traces: Sequence[Trace], path: Path) -> Path:
    """The relative L1 change of each signal and of the output over the steps, means over the prompts."""
    curves = {}
    for name in (*SIGNALS, "residual", OUTPUT):
        means = (statistics.fmean(row) for row in zip(*(item.distances[name] for item in traces)))
        curves[name.replace("_", " ")] = list(enumerate(means, start=1))
    return Chart("change from step to step", "step", "relative L1", curves).save(path)


def plot_fits(traces: Sequence[Trace], fits: Sequence[Fit], path: Path) -> Path:
    """The change of the output against that of one signal, each step of each prompt a point, and the fits."""
    signal = fits[0].signal
    points = [pair for item in traces for pair in zip(item.distances[signal], item.distances[OUTPUT])]
    curves = {"steps": [place for point in points for place in (point, (point[0], math.nan))]}
    for fit in fits:
        places = np.linspace(*fit.domain, _SAMPLES).tolist()
        curves[f"degree {fit.degree}"] = [(x, polynomial(fit.coefficients, x)) for x in places]
    change = "relative L1 of the {}".format
    label = signal.replace("_", " ")
    return Chart(f"output against {label}", change(label), change("output"), curves).save(path)


def plot_quality(rows: Mapping[str, Sequence[tuple[float, float]]], label: str, path: Path) -> Path:
    """PSNR against what it costs (`label`), one curve per kind of policy (the paper's figure 1)."""
    curves = {name: sorted(points) for name, points in rows.items()}
    return Chart("quality against cost", label, "PSNR in dB", curves).save(path)
