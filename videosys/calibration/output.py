"""The files of a calibration, and checks of where they go."""

from __future__ import annotations

import math
from pathlib import Path

from videosys.cache import calibration_text
from videosys.calibration.calibrate import CalibrationReport
from videosys.calibration.fit import DEGREES
from videosys.calibration.plot import plot_fits, plot_signals
from videosys.calibration.tables import report_text
from videosys.utils.files import write_text
from videosys.utils.logging import get_logger
from videosys.utils.plots import ADVICE, has_matplotlib

_LOG = get_logger("calibration")


def check_place(path: Path, is_folder: bool = False) -> None:
    """ValueError where no file, or no folder, can have this name: what is above it is a file, for example."""
    if path.exists() and path.is_dir() != is_folder:
        raise ValueError(f"--out is {str(path)!r}, which is a {'file' if is_folder else 'folder'}")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise ValueError(f"--out is {str(path)!r}, and {str(above)!r} is not a folder")


def check_search(most_runs: float) -> None:
    """ValueError for a number of full runs that no search can take."""
    if not 0 < most_runs < math.inf:
        raise ValueError(f"--search is {most_runs:g}; it must be above 0, and finite")


def write_report(report: CalibrationReport, out: Path) -> str:
    """The report as Markdown. Writes `out` (JSON), and beside it the Markdown and two plots.

    Plots are left out where matplotlib is not installed.
    """
    text = report_text(report)
    if has_matplotlib():
        plot_report(report, out)
    write_text(out.with_suffix(".md"), text)
    write_text(out, calibration_text(report.calibration()))
    return text


def plot_report(report: CalibrationReport, out: Path) -> None:
    """Writes the plots of the signals and of the fits beside `out`."""
    traces = report.study.traces
    plot_signals(traces, out.with_name(f"{out.stem}-signals.png"))
    shown = report.best_fit or report.fits[-len(DEGREES)]
    fits = [fit for fit in report.fits if fit.signal == shown.signal]
    plot_fits(traces, fits, out.with_name(f"{out.stem}-fits.png"))


def announce_missing_plots() -> None:
    """One log line where matplotlib is not installed and the report will have no plots."""
    if not has_matplotlib():
        _LOG.warning("the report will have no plots: %s", ADVICE)
