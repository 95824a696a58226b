"""Measures which settings of a cache suit a model: `python -m videosys.calibration`."""

from videosys.cache import RunSpec
from videosys.calibration.calibrate import (
    CalibrationReport,
    PolicyResult,
    all_fits,
    finite,
    search_record,
    select_fit,
    teacache_for,
)
from videosys.calibration.journal import Journal, policy_key
from videosys.calibration.measure import FULL, Bench, Measured, margin, summary
from videosys.calibration.output import check_place, check_search, write_report
from videosys.calibration.runs import Clips, DenoiseRun
from videosys.calibration.search import FORECAST_KINDS, ForecastKind, SearchResult
from videosys.calibration.study import Study
from videosys.calibration.tables import markdown_table, with_margin
from videosys.calibration.thresholds import SLACK, magcache_for
from videosys.utils.plots import line_axes, save_figure

__all__ = [
    "FORECAST_KINDS",
    "FULL",
    "SLACK",
    "Bench",
    "CalibrationReport",
    "Clips",
    "DenoiseRun",
    "ForecastKind",
    "Journal",
    "Measured",
    "PolicyResult",
    "RunSpec",
    "SearchResult",
    "Study",
    "all_fits",
    "check_place",
    "check_search",
    "finite",
    "line_axes",
    "magcache_for",
    "margin",
    "markdown_table",
    "policy_key",
    "save_figure",
    "search_record",
    "select_fit",
    "summary",
    "teacache_for",
    "with_margin",
    "write_report",
]
