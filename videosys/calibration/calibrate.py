"""The calibration of one model: fits, thresholds and schedules, each verified on held-out prompts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from videosys.cache import CacheConfig, Calibration, ScheduleConfig, Setting, TeaCacheConfig
from videosys.cache.base import STACK
from videosys.calibration.candidates import Candidate, Planner, converged, plain_changes
from videosys.calibration.collect import SIGNAL_NAMES, SIGNALS, WATCHED, Trace
from videosys.calibration.cost import calibration_cost
from videosys.calibration.fit import DEGREES, Fit, best_of, correlation, different, fit
from videosys.calibration.measure import CONVERGED, FULL, Bench, Pace, Summary, pace, quality_of, summary
from videosys.calibration.search import SearchResult
from videosys.calibration.study import Study
from videosys.calibration.thresholds import (
    NAIVE,
    magcache_for,
    nearest_threshold,
    own_settings,
    threshold_for,
)
from videosys.calibration.trials import FAR, TRIED, Trials, measured_plans
from videosys.utils import plain
from videosys.utils.logging import get_logger
from videosys.utils.settled import settle

_LOG = get_logger("calibration")


@dataclass(frozen=True)
class PolicyResult:
    """A policy and its results on held-out prompts.

    budget: target number of computed steps. config: overrides of the sampler, if it differs from the
    published one. evaluations: computed plus skipped steps of that sampler. predicted: PSNR against each
    reference, as predicted from the recorded runs.
    """

    name: str
    budget: int
    policy: CacheConfig
    result: Summary
    config: Mapping[str, Any] = field(default_factory=dict)
    evaluations: int | None = None
    predicted: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name, followed by the threshold if the policy has one."""
        threshold = getattr(self.policy, "threshold", None)
        return self.name if threshold is None else f"{self.name}, threshold {threshold:.4g}"

    def setting(self, times: Pace) -> Setting:
        """The entry for a calibration file. The speed-up is rounded as in error messages, so that a user can
        request the value that an error offers.
        """
        result = self.result
        psnr, ssim = quality_of(result.psnr[FULL]), result.ssim.get(FULL)
        speedup = round(times.speedup(result.computed, self.evaluations), 2)
        near = result.psnr.get(CONVERGED)
        changes = plain_changes(self.config)
        return Setting(self.policy, result.computed, speedup, psnr, ssim, near, changes)


@dataclass(frozen=True)
class CalibrationReport:
    """The results of a calibration.

    fits: of all signals and degrees. best_fit: the one for TeaCache, None if no fit is usable.
    rows: one per policy. searches: by budget and kind of forecast, as `search_record` gives them.
    is_measured: false if no prompt was held out.
    """

    study: Study
    fits: tuple[Fit, ...]
    best_fit: Fit | None
    rows: tuple[PolicyResult, ...]
    searches: dict[int, dict[str, Any]] = field(default_factory=dict)
    is_measured: bool = True

    @property
    def about_speedup(self) -> str:
        """A sentence on how the speed-ups were determined."""
        if not self.is_measured:
            return (
                "No prompt was held out: the PSNR is from a trial on a calibration prompt; the speed-up is "
                "a ratio of evaluations."
            )
        return (
            "The speed-up covers the loop and the autoencoder. It is computed from the number of computed "
            "steps, with a line fitted to all timed runs."
        )

    @property
    def pace(self) -> Pace:
        """Run time as a function of the number of computed steps."""
        if not self.is_measured:
            return Pace(self.study.num_steps, skipped=0.0, decode=0.0)
        return pace([row.result for row in self.rows], self.study.num_steps)

    def calibration(self) -> Calibration:
        """The content for `cache.calibration`. Without a good polynomial, TeaCache uses plain distances."""
        rows, times = distinct(self.rows), self.pace
        details = {
            "learnt_prompts": [job.prompt for job in self.study.learnt],
            "held_out_prompts": [job.prompt for job in self.study.held_out],
            "seed": self.study.config.seed,
            "fits": [asdict(item) for item in self.fits],
            "search": self.searches,
            "psnr_margin": [row.result.psnr_margin[FULL] for row in rows],
            "measured_speedup": [round(row.result.speedup, 4) for row in rows],
        }
        settings = tuple(row.setting(times) for row in rows)
        coefficients = self.best_fit.coefficients if self.best_fit else NAIVE
        learnt = (coefficients, finite(details), self.study.ratios, self.study.sensitivities)
        return Calibration(self.study.scope, settings, *learnt)


def distinct(rows: Sequence[PolicyResult]) -> list[PolicyResult]:
    """The results without duplicates: of several policies of one class with equal figures, keep the first."""
    first: dict[Any, PolicyResult] = {}
    for row in rows:
        figures = (row.result.computed, *row.result.psnr.items(), *row.result.ssim.items())
        first.setdefault((type(row.policy), *figures), row)
    return list(first.values())


@settle
def calibrate(
    study: Study, budgets: Sequence[int], most_runs: float, exact: Mapping[str, Any] | None = None
) -> CalibrationReport:
    """Calibrate: fit polynomials, thresholds and schedules, and measure them on the held-out prompts.

    budgets: numbers of computed steps. most_runs: full runs that the search may use for each budget.
    exact: config overrides of the converged run; default: those of `converged`.
    The cost is logged first in full runs, then in hours once a full run has been timed.
    """
    check_predictable(study)
    cost = calibration_cost(study, budgets, most_runs)
    _LOG.info("%s", cost)
    seconds = study.full_seconds
    _LOG.info("a full run takes %.3g s; the calibration takes %s at most", seconds, cost.duration(seconds))
    fits = all_fits(study.traces)
    best_fit = select_fit(fits)
    planner = Planner(study)
    if not study.held_out:
        rows = tried_plans(study, planner, budgets)
        return CalibrationReport(study, tuple(fits), best_fit, rows, is_measured=False)
    bench = study.bench(references(converged(study.config) if exact is None else exact))
    results: list[PolicyResult] = []
    searches: dict[int, dict[str, Any]] = {}
    for budget in budgets:
        candidates = rules(study, budget, best_fit, most_runs)
        if most_runs or study.surrogate is None:
            for kind, best in study.search(budget, most_runs).items():
                candidates.append(Candidate(f"schedule {kind}", study.policy(best.schedule), {}, {}))
                searches.setdefault(budget, {})[kind] = search_record(best)
        results += [measured(study, bench, budget, one) for one in candidates]
        results += plans(study, planner, bench, budget)
    for line in disagreements(results):
        _LOG.warning("%s", line)
    return CalibrationReport(study, tuple(fits), best_fit, tuple(results), searches)


def check_predictable(study: Study) -> None:
    """ValueError if plans can be neither predicted nor measured."""
    if not study.held_out and study.kept == STACK:
        raise ValueError(
            f"recorded runs of {study.scope.scheduler} do not predict the quality of a plan, so it must be "
            "measured: hold out at least one prompt"
        )


def tried_plans(study: Study, planner: Planner, budgets: Sequence[int]) -> tuple[PolicyResult, ...]:
    """The plans with a trial on a calibration prompt, used when there are no held-out prompts."""
    trials = Trials(study, TRIED)
    return tuple(
        told(study, budget, one, psnr)
        for budget in budgets
        for one, psnr in measured_plans(planner, budget, trials)
        if psnr
    )


def told(study: Study, budget: int, one: Candidate, psnr: Mapping[str, float]) -> PolicyResult:
    """A candidate as a result, with the PSNR of a trial."""
    evaluations = len(study.sampler(one.config).times())
    computed = len(one.policy.computed or ()) if isinstance(one.policy, ScheduleConfig) else evaluations
    speedup, margins = study.num_steps / computed, dict.fromkeys(psnr, math.inf)
    result = Summary(computed, speedup, speedup, 0.0, dict(psnr), margins, {})
    return PolicyResult(one.name, budget, one.policy, result, one.config, evaluations, one.predicted)


def references(exact: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The reference runs besides the full run, as name -> config overrides. exact: of the converged run."""
    return {CONVERGED: dict(exact)} if exact else {}


def rules(study: Study, budget: int, best_fit: Fit | None, most_runs: float) -> list[Candidate]:
    """The threshold policies, and the policies that provide settings for a budget."""
    is_tried = bool(most_runs) or study.tries_thresholds
    policies = {
        "teacache": teacache_for(study, budget, best_fit, is_tried),
        "magcache": magcache_for(budget, study.ratios),
        **dict(own_settings(budget, study.num_steps)),
    }
    return [Candidate(name, policy, {}, {}) for name, policy in policies.items() if policy is not None]


def plans(study: Study, planner: Planner, bench: Bench, budget: int) -> list[PolicyResult]:
    """Measure the promising candidates on the held-out prompts."""
    results: list[PolicyResult] = []

    def measure(one: Candidate) -> Mapping[str, float]:
        results.append(measured(study, bench, budget, one))
        return results[-1].result.psnr

    measured_plans(planner, budget, measure)
    return results


def measured(study: Study, bench: Bench, budget: int, one: Candidate) -> PolicyResult:
    """Measure a candidate on the held-out prompts."""
    rows = bench.measure(f"{one.name} {budget}", one.policy, one.config)
    evaluations = len(study.sampler(one.config).times()) if one.config else None
    return PolicyResult(one.name, budget, one.policy, summary(rows), one.config, evaluations, one.predicted)


def disagreements(rows: Sequence[PolicyResult]) -> Iterator[str]:
    """A line for each plan whose measured PSNR is far from the predicted one."""
    for row in rows:
        for reference, predicted in row.predicted.items():
            psnr = row.result.psnr[reference]
            if abs(psnr - predicted) > FAR:
                figures = f"predicted {predicted:.1f} dB, measured {psnr:.1f} dB"
                yield f"{row.name}, {row.budget} evaluations: {figures}, against the {reference} run"


def search_record(best: SearchResult) -> dict[str, Any]:
    """The result of a search as plain values, in the layout of the calibration file."""
    return {"computed": best.schedule.computed, "score": best.score, "tried": best.num_runs}


def all_fits(traces: Sequence[Trace]) -> list[Fit]:
    """The polynomials of all signals and degrees: the paper's two ablations.

    The first and last step are omitted because they always compute. The last third of the prompts is held
    out; with a single prompt, none.
    """
    held_out = len(traces) // 3 or (len(traces) > 1)
    learnt, others = traces[: len(traces) - held_out], traces[len(traces) - held_out :]

    def rows(name: str, items: Sequence[Trace]) -> list[list[float]]:
        return [item.distances[name][:-1] for item in items]

    fits = []
    for name in SIGNALS:
        unseen = (rows(name, others), rows("output", others)) if others else None
        points = rows(name, learnt), rows("output", learnt)
        enough = min(len(traces[0].distances[name]) - 2, different(*points) - 1)
        for degree in DEGREES[: max(enough, 0)]:
            fits.append(fit(name, degree, *points, unseen))
    return fits


def correlations(traces: Sequence[Trace]) -> dict[str, tuple[float, float]]:
    """For each signal, the correlation of its change with the output's change: over all steps, and without
    the first and last change.
    """

    def over(name: str, part: slice) -> float:
        changes, outputs = ([item.distances[key][part] for item in traces] for key in (name, "output"))
        return correlation(changes, outputs)

    return {name: (over(name, slice(None)), over(name, slice(1, -1))) for name in (*SIGNALS, "residual")}


def select_fit(fits: Sequence[Fit]) -> Fit | None:
    """The polynomial for TeaCache, or None if no fit is usable. Logs a warning for None and for a poor
    fit.
    """
    watched = [item for item in fits if item.signal == WATCHED]
    for item in watched:
        if item.problem():
            _LOG.warning("the polynomial of degree %d %s and is not used", item.degree, item.problem())
    best = best_of(watched)
    if best is None:
        _LOG.warning("no polynomial is usable: TeaCache will not rescale distances")
    elif best.warning():
        _LOG.warning("the polynomial of degree %d %s", best.degree, best.warning())
    return best


def teacache_for(
    study: Study, budget: int, best_fit: Fit | None, is_tried: bool = True, **options: Any
) -> TeaCacheConfig:
    """TeaCache with the threshold that computes about `budget` steps.

    The first threshold is computed from the changes in full runs. Runs that skip steps see larger changes, so
    further thresholds are tried in real runs until one is within SLACK of the budget; the nearest is
    returned. is_tried: false returns the first threshold without real runs. options: other fields of
    `TeaCacheConfig`.
    """
    coefficients = best_fit.coefficients if best_fit else NAIVE
    name = SIGNAL_NAMES[options.get("signal", "modulated")]
    changes = [item.distances[name] for item in study.traces]
    threshold = threshold_for(budget, changes, coefficients, study.num_steps - 1)
    policy = TeaCacheConfig(threshold=threshold, coefficients=coefficients, **options)

    if not is_tried:
        return policy

    def computed(value: float) -> float:
        return study.try_policy(replace(policy, threshold=value))[0]

    return replace(policy, threshold=nearest_threshold(budget, threshold, computed))


def finite(value: Any) -> Any:
    """Plain values for JSON: numbers that are not finite become None."""
    return plain.to_plain(value, number=plain.finite, key=str, other=plain.unchanged)
