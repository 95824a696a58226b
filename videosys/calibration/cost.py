"""Estimates the cost of a calibration in full runs, and in hours once a full run has been timed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from videosys.cache.base import OUTPUT
from videosys.calibration.candidates import converged, solvers
from videosys.calibration.collect import WINDOW
from videosys.calibration.measure import SHARED, TIMED
from videosys.calibration.search import FORECAST_KINDS
from videosys.calibration.study import PROBES, REUSED_STEP, Study, share_of
from videosys.calibration.thresholds import TRIES, own_settings
from videosys.calibration.trials import TRIAL_STEPS, TRIED, most_tries
from videosys.schedulers.solvers import PublishedConfig

RULES = 2  # TeaCache and MagCache, besides one schedule of each kind


@dataclass(frozen=True)
class CalibrationCost:
    """Upper bounds per part, in full runs of one prompt; a skipped step counts as REUSED_STEP."""

    learning: float
    search: float
    thresholds: float
    measurement: float

    @property
    def total(self) -> float:
        """The total, in full runs."""
        return sum(astuple(self))

    def __str__(self) -> str:
        return (
            f"at most {self.total:.0f} full runs: {self.learning:.0f} for recordings, {self.search:.0f} for "
            f"the search, {self.thresholds:.0f} for thresholds, {self.measurement:.0f} for measurements"
        )

    def duration(self, seconds: float) -> str:
        """The total in hours and minutes. seconds: of one full run."""
        minutes = max(round(self.total * seconds / 60), 1)
        return f"{minutes // 60} h {minutes % 60:02} min"


def calibration_cost(study: Study, budgets: Sequence[int], most_runs: float) -> CalibrationCost:
    """The cost of `calibrate` with these arguments.

    An upper bound: the search often ends before its limit, and few thresholds need all tries.
    """
    learnt, held_out = len(study.learnt), len(study.held_out)
    searched = min(study.search_size, learnt)
    probed = min(study.config.batch_size, searched)
    costs = [share_of(budget, study.num_steps) for budget in budgets]
    shares = sum(costs)
    is_recorded = study.kept == OUTPUT
    # One run is only timed; the reference frames come from other runs.
    learning = 1 + searched + learnt * (1 if is_recorded else 1 + WINDOW * REUSED_STEP)
    learning += 0 if is_recorded else PROBES * probed
    policies = RULES + max(len(own_settings(each, study.num_steps)) for each in budgets)
    policies += 0 if is_recorded and not most_runs else len(FORECAST_KINDS)
    changes = converged(study.config)
    tries = [most_tried(study, budget) if changes else 0 for budget in budgets]
    trials = sum(number * cost for number, cost in zip(tries, costs))
    exact = len(study.sampler(changes).times()) / study.num_steps if changes else 0.0
    timed = min(TIMED, held_out) * math.ceil((policies * len(budgets) + sum(tries)) / SHARED)
    measurement = held_out * (1 + exact + policies * shares + trials) + timed
    if not held_out and is_recorded:
        measurement = TRIED * (TRIAL_STEPS / study.num_steps + trials)
    is_tried = most_runs or study.tries_thresholds
    thresholds = TRIES * searched * shares if is_tried and held_out else 0.0
    return CalibrationCost(learning, len(budgets) * most_runs, thresholds, measurement)


def most_tried(study: Study, budget: int) -> int:
    """The maximum number of candidates tried: those of both references, and the sampler under the caches on
    each solver.
    """
    kinds = {type(solver) for solver in solvers(study.config.prediction)} - {PublishedConfig}
    return 2 * most_tries(budget / study.num_steps) + len(kinds)
