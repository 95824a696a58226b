"""The public names of calibration, and where they are."""

from .calibrate import (
    CalibrationReport as CalibrationReport,
    PolicyResult as PolicyResult,
    all_fits as all_fits,
    calibrate as calibrate,
    finite as finite,
    search_record as search_record,
    select_fit as select_fit,
    teacache_for as teacache_for,
)
from .candidates import (
    Candidate as Candidate,
    Planner as Planner,
    converged as converged,
)
from .journal import (
    Journal as Journal,
    policy_key as policy_key,
)
from .measure import (
    CONVERGED as CONVERGED,
    FULL as FULL,
    Bench as Bench,
    Measured as Measured,
    margin as margin,
    summary as summary,
)
from .output import (
    RunSpec as RunSpec,
    line_axes as line_axes,
    plot_signals as plot_signals,
    save_figure as save_figure,
    check_place as check_place,
    check_search as check_search,
    write_report as write_report,
)
from .runs import (
    Clips as Clips,
    DenoiseRun as DenoiseRun,
)
from .search import (
    FORECAST_KINDS as FORECAST_KINDS,
    ForecastKind as ForecastKind,
    SearchResult as SearchResult,
)
from .study import (
    Study as Study,
)
from .tables import (
    markdown_table as markdown_table,
    with_margin as with_margin,
)
from .thresholds import (
    SLACK as SLACK,
    magcache_for as magcache_for,
    nearest_threshold as nearest_threshold,
)
from .trials import (
    Trials as Trials,
    measured_plans as measured_plans,
)
