"""The calibration of one model: fits, thresholds and schedules, each verified on held-out prompts."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from videosys.cache import CacheConfig, Calibration, Setting, TeaCacheConfig
from videosys.calibration.collect import KINDS, SIGNALS, WATCHED, Trace
from videosys.calibration.fit import DEGREES, Fit, choose, correlation, fit
from videosys.calibration.measure import FULL, Pace, Summary, pace, quality_of, summary
from videosys.calibration.plan import planned
from videosys.calibration.search import Found
from videosys.calibration.study import Study
from videosys.calibration.thresholds import NAIVE, magcache_for, nearest_threshold, threshold_for
from videosys.utils import plain
from videosys.utils.logging import get_logger

_LOG = get_logger("calibration")


@dataclass(frozen=True)
class Row:
    """A policy and what it gave on held-out prompts. budget: computed steps it was made for."""

    name: str
    budget: int
    policy: CacheConfig
    result: Summary

    @property
    def label(self) -> str:
        """The name, with the threshold where there is one."""
        threshold = getattr(self.policy, "threshold", None)
        return self.name if threshold is None else f"{self.name}, threshold {threshold:.4g}"

    def setting(self, times: Pace) -> Setting:
        """The speed-up has as many digits as an error tells, so that what it offers can be asked for."""
        result = self.result
        psnr, ssim = quality_of(result.psnr[FULL]), result.ssim[FULL]
        return Setting(self.policy, result.computed, round(times.speedup(result.computed), 2), psnr, ssim)


@dataclass(frozen=True)
class Report:
    """All that a calibration found. rows: of policies; fits: of all signals and degrees; chosen: of them, for
    TeaCache, or None.
    """

    study: Study
    fits: tuple[Fit, ...]
    chosen: Fit | None
    rows: tuple[Row, ...]
    found: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def pace(self) -> Pace:
        """The time of a run by its computed steps."""
        return pace([row.result for row in self.rows], self.study.num_steps)

    def calibration(self) -> Calibration:
        """What `cache.calibration` reads. TeaCache without a good polynomial decides by what it measures."""
        rows, times = distinct(self.rows), self.pace
        details = {
            "learnt_prompts": [job.prompt for job in self.study.learnt],
            "held_out_prompts": [job.prompt for job in self.study.held_out],
            "seed": self.study.config.seed,
            "fits": [asdict(item) for item in self.fits],
            "search": self.found,
            "psnr_margin": [row.result.psnr_margin[FULL] for row in rows],
            "measured_speedup": [round(row.result.speedup, 4) for row in rows],
        }
        settings = tuple(row.setting(times) for row in rows)
        coefficients = self.chosen.coefficients if self.chosen else NAIVE
        return Calibration(self.study.scope, settings, coefficients, finite(details), self.study.ratios)


def distinct(rows: Sequence[Row]) -> list[Row]:
    """Those that differ in what they do: of one class, computing the same with the same frames, the first."""
    kept: dict[Any, Row] = {}
    for row in rows:
        result = row.result
        same = (type(row.policy), result.computed, *result.psnr.items(), *result.ssim.items())
        kept.setdefault(same, row)
    return list(kept.values())


def calibrate(study: Study, budgets: Sequence[int], most_runs: float) -> Report:
    """Runs it all. most_runs: full runs that the search may take for each number of computed steps.

    What it will cost is logged before, in full runs, and in hours as soon as one has been timed.
    """
    plan = planned(study, budgets, most_runs)
    _LOG.info("%s", plan)
    seconds = study.full_seconds
    _LOG.info("a full run takes %.3g s: %s in all at most", seconds, plan.lasting(seconds))
    fits = all_fits(study.traces)
    chosen = chosen_fit(fits)
    candidates: list[tuple[str, int, CacheConfig]] = []
    found: dict[int, dict[str, Any]] = {}
    for budget in budgets:
        candidates += [("teacache", budget, teacache(study, budget, chosen))]
        magcache = magcache_for(budget, study.ratios)
        candidates += [("magcache", budget, magcache)] if magcache else []
        for kind, best in study.search(budget, most_runs).items():
            candidates.append((f"schedule {kind}", budget, best.schedule.policy(study.times)))
            found.setdefault(budget, {})[kind] = told(best)
    bench = study.bench()
    rows = [
        Row(name, budget, policy, summary(bench.measure(f"{name} {budget}", policy)))
        for name, budget, policy in candidates
    ]
    return Report(study, tuple(fits), chosen, tuple(rows), found)


def told(best: Found) -> dict[str, Any]:
    """A schedule that was found, as a file tells of it."""
    return {"computed": best.schedule.computed, "score": best.score, "tried": best.tried}


def all_fits(traces: Sequence[Trace]) -> list[Fit]:
    """The polynomials of all signals and degrees: the paper's two ablations.

    First and last step are left out, since they compute whatever the polynomial says. The last third of
    the prompts (none, where there is but one) is held out.
    """
    held = len(traces) // 3 or (len(traces) > 1)
    learnt, others = traces[: len(traces) - held], traces[len(traces) - held :]

    def rows(name: str, items: Sequence[Trace]) -> list[list[float]]:
        return [item.distances[name][:-1] for item in items]

    fits = []
    for name in SIGNALS:
        held_out = (rows(name, others), rows("output", others)) if others else None
        for degree in DEGREES[: len(traces[0].distances[name]) - 2]:  # as many as there are steps for
            fits.append(fit(name, degree, rows(name, learnt), rows("output", learnt), held_out))
    return fits


def correlations(traces: Sequence[Trace]) -> dict[str, tuple[float, float]]:
    """For each signal the correlation of its change with the output's: over all changes from step to step,
    and over those between the first and the last.
    """

    def over(name: str, part: slice) -> float:
        pairs = [(item.distances[name][part], item.distances["output"][part]) for item in traces]
        return correlation([change for change, _ in pairs], [output for _, output in pairs])

    everything, inner = slice(None), slice(1, -1)
    return {name: (over(name, everything), over(name, inner)) for name in (*SIGNALS, "residual")}


def chosen_fit(fits: Sequence[Fit]) -> Fit | None:
    """The polynomial for TeaCache, with a warning where it explains little; None, with one, where none may be
    used.
    """
    watched = [item for item in fits if item.signal == WATCHED]
    for item in watched:
        if item.problem():
            _LOG.warning("the polynomial of degree %d %s and is refused", item.degree, item.problem())
    best = choose(watched)
    if best is None:
        _LOG.warning("no polynomial can be used: TeaCache compares distances as they are")
    elif best.warning():
        _LOG.warning("the polynomial of degree %d %s", best.degree, best.warning())
    return best


def teacache(study: Study, budget: int, chosen: Fit | None, **options: Any) -> TeaCacheConfig:
    """TeaCache with the threshold that computes about so many steps.

    It begins with the one that would do on the changes of full runs; a run that skips sees larger changes,
    so others are tried, upwards and downwards, until real runs are within SLACK of the budget. The nearest
    one of those that were tried is taken.
    """
    coefficients = chosen.coefficients if chosen else NAIVE
    name = KINDS[options.get("signal", "modulated")]
    changes = [item.distances[name] for item in study.traces]
    threshold = threshold_for(budget, changes, coefficients, study.num_steps - 1)
    policy = TeaCacheConfig(threshold=threshold, coefficients=coefficients, **options)

    def computed(value: float) -> float:
        return study.tried(replace(policy, threshold=value))[0]

    return replace(policy, threshold=nearest_threshold(budget, threshold, computed))


def finite(value: Any) -> Any:
    """Plain values without what JSON cannot hold: numbers that are not finite become None."""
    return plain.to_plain(value, number=plain.finite, key=str, other=plain.unchanged)


def mean_output_change(traces: Sequence[Trace]) -> list[float]:
    """The output's change per step, the mean over prompts."""
    return [statistics.fmean(row) for row in zip(*(item.distances["output"] for item in traces))]
