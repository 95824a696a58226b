"""The files of a calibration."""

from __future__ import annotations

from pathlib import Path

from videosys.cache import calibration_text
from videosys.calibration.calibrate import Report
from videosys.calibration.fit import DEGREES
from videosys.calibration.plot import plot_fits, plot_signals
from videosys.calibration.tables import report_text
from videosys.utils.files import write_text


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
