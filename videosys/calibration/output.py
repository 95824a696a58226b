"""Writes the files of a calibration and checks their paths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from videosys.cache import RunSpec as RunSpec  # a public name of this package
from videosys.cache import calibration_text
from videosys.calibration.calibrate import CalibrationReport
from videosys.calibration.collect import SIGNALS, Trace, mean_columns
from videosys.calibration.fit import Fit
from videosys.calibration.tables import report_text, words
from videosys.utils.files import write_text
from videosys.utils.logging import get_logger
from videosys.utils.plots import advice, has_matplotlib, line_axes, save_figure
from videosys.utils.reading import expanded

POINTS_PER_CURVE = 61
_LOG = get_logger("calibration")


def check_place(path: Path, is_folder: bool = False) -> None:
    """ValueError if a file or folder cannot be created here, for example because a parent is a file."""
    expanded(path)
    if path.exists() and path.is_dir() != is_folder:
        raise ValueError(f"--out is {str(path)!r}, which is a {'file' if is_folder else 'folder'}")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise ValueError(f"--out is {str(path)!r}, but {str(above)!r} is not a folder")


def check_search(most_runs: float) -> None:
    """ValueError if the number of full runs for a search is negative or not finite."""
    if not 0 <= most_runs < math.inf:
        raise ValueError(f"--search is {most_runs:g}; it must be 0 or more, and finite")


def write_report(report: CalibrationReport, out: Path) -> str:
    """Write `out` (JSON), a Markdown report and two plots next to it; return the Markdown.

    Without matplotlib there are no plots.
    """
    text = report_text(report)
    if has_matplotlib():
        plot_report(report, out)
    write_text(out.with_suffix(".md"), text)
    write_text(out, calibration_text(report.calibration()))
    return text


def plot_report(report: CalibrationReport, out: Path) -> None:
    """Write the plots of the signals and of the fits (figures of the TeaCache paper) next to `out`."""
    traces = report.study.traces
    plot_signals(traces, out.with_name(f"{out.stem}-signals.png"))
    if report.fits:
        shown = report.best_fit or report.fits[-1]
        fits = [fit for fit in report.fits if fit.signal == shown.signal]
        plot_fits(traces, fits, out.with_name(f"{out.stem}-fits.png"))


def plot_signals(traces: Sequence[Trace], path: Path) -> None:
    """Plot the relative L1 change of each signal and of the output per step, averaged over the prompts."""
    axes = line_axes("Change from step to step", "step", "relative L1 change", whole_x=True)
    for name in (*SIGNALS, "residual", "output"):
        means = mean_columns(trace.distances[name] for trace in traces)
        axes.plot(range(1, len(means) + 1), means, marker=".", label=words(name))
    save_figure(axes, path)


def plot_fits(traces: Sequence[Trace], fits: Sequence[Fit], path: Path) -> None:
    """Plot the change of the output against the change of one signal, one point per step, with the fits."""
    signal = fits[0].signal
    change = "relative L1 change of the {}".format
    axes = line_axes(
        f"Change of the output against the {words(signal)}", change(words(signal)), change("output")
    )
    points = [pair for trace in traces for pair in zip(trace.distances[signal], trace.distances["output"])]
    axes.scatter(*zip(*points), s=8, color="grey", label="steps")
    for fit in fits:
        x = np.linspace(*fit.domain, POINTS_PER_CURVE)
        axes.plot(x, np.polyval(fit.coefficients, x), label=f"degree {fit.degree}")
    save_figure(axes, path)


def announce_missing_plots() -> None:
    """Log a line if matplotlib is not installed, because the report will have no plots."""
    if not has_matplotlib():
        _LOG.warning("the report will have no plots: %s", advice())
