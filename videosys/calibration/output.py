"""The files of a calibration, and whether there can be any."""

from __future__ import annotations

import math
from pathlib import Path

from videosys.cache import calibration_text
from videosys.calibration.calibrate import Report
from videosys.calibration.fit import DEGREES
from videosys.calibration.plot import plot_fits, plot_signals
from videosys.calibration.tables import report_text
from videosys.utils.files import write_text


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


def write_report(report: Report, out: Path) -> str:
    """The tables, which are also written beside `out`, the JSON file, with two plots."""
    traces, text = report.study.traces, report_text(report)
    plot_signals(traces, out.with_name(f"{out.stem}-signals.png"))
    shown = report.chosen or report.fits[-len(DEGREES)]
    fits = [item for item in report.fits if item.signal == shown.signal]
    plot_fits(traces, fits, out.with_name(f"{out.stem}-fits.png"))
    write_text(out.with_suffix(".md"), text)
    write_text(out, calibration_text(report.calibration()))
    return text
