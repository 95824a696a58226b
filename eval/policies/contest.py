"""All policies of a comparison, at one number of computed steps after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from eval.policies.report import CALIBRATED, PAB, TEACACHE, Entry
from eval.policies.rivals import cosine_steps, fewer_steps, has_cosine
from eval.policies.work import Work
from videosys import CacheConfig, Linear, PABConfig, ScheduleConfig
from videosys.calibration import (
    FORECAST_KINDS,
    SLACK,
    Bench,
    CalibrationReport,
    ForecastKind,
    PolicyResult,
    SearchResult,
    Study,
    all_fits,
    magcache_for,
    search_record,
    select_fit,
    summary,
    teacache_for,
)

# Between holding and following the line, on the schedule that was made for the line.
BETWEEN: dict[str, Linear] = {
    "schedule, damped": Linear(damping=0.5),
    "schedule, gap-limited": Linear(max_gap=2),
}
# Of the schedules; for the others, and for what BETWEEN says, the score on the learnt prompts has to do.
MEASURED = ("schedule, hold", "schedule, linear", "searched, hold")
RULES = ("TeaCache", "MagCache")
REPORTED = ("TeaCache, ", "MagCache, ", "schedule, ", "searched, ", CALIBRATED)
TRIED = 3  # schedules whose frames are compared before one is selected
BROADCASTS = {"pab_slow": f"{PAB} slow", "pab_fast": f"{PAB} fast"}


class Contest:
    """The runs of one comparison.

    candidates: for each budget the policies by name. selection: the name of the one with the best frames on
    the learnt prompts. searches: scores of the candidates, and the results of the search.
    """

    def __init__(self, study: Study, bench: Bench, work: Work, most_runs: float):
        self.study, self.bench, self.work, self.most_runs = study, bench, work, most_runs
        self.fits = all_fits(study.traces)
        self.fit = select_fit(self.fits)
        self.candidates: dict[int, dict[str, CacheConfig]] = {}
        self.selection: dict[int, str] = {}
        self.searches: dict[int, dict[str, Any]] = {}

    def broadcasts(self) -> Iterator[Entry]:
        """Pyramid Attention Broadcast, where there are settings of it for the model."""
        for name, label in BROADCASTS.items():
            policy = presets(self.study.config).get(name)
            if isinstance(policy, PABConfig):
                rows = self.bench.measure(label, policy)
                yield Entry(label, None, rows, self.work.of_policy(policy), policy)

    def report(self, entries: Sequence[Entry]) -> CalibrationReport:
        """The report of a calibration with the same results: TeaCache, MagCache and the schedules."""
        rows = {
            (one.budget, one.policy): PolicyResult(one.name, one.budget, one.policy, summary(one.rows))
            for one in reversed(entries)
            if one.policy is not None and one.budget is not None and one.name.startswith(REPORTED)
        }
        return CalibrationReport(
            self.study, tuple(self.fits), self.fit, tuple(reversed(rows.values())), self.searches
        )

    def entries(self, budget: int) -> list[Entry]:
        """The results of all policies with about this many computed steps, after `learn`."""
        entries = [*self._fewer(budget)]
        for name, policy in self._policies(budget):
            rows = self.bench.measure(f"{name} {budget}", policy)
            entries.append(Entry(name, budget, rows, self.work.of_rows(rows), policy))
        return entries

    def _fewer(self, budget: int) -> Iterator[Entry]:
        """The sampler with fewer steps; it may evaluate the model more often than it steps."""
        config, work = self.study.config, budget / self.study.num_steps
        steps = budget - (self.study.num_steps - config.steps)
        if steps >= getattr(config, "steps_allowed", (1, 0))[0]:
            rows = self.bench.measure_runs(
                f"fewer steps {budget}", f"fewer {steps}", lambda clip: fewer_steps(clip, steps)
            )
            yield Entry("fewer steps", budget, rows, work)
        if has_cosine(self.bench.clips[0]):
            rows = self.bench.measure_runs(
                f"fewer steps, cosine {budget}", f"cosine {budget}", lambda clip: cosine_steps(clip, budget)
            )
            yield Entry("fewer steps, cosine", budget, rows, work)

    def _policies(self, budget: int) -> Iterator[tuple[str, CacheConfig]]:
        last, candidates = self.study.num_steps - 1, self.candidates[budget]
        even = tuple(round(place * last / (budget - 1)) for place in range(budget))
        yield "interval, hold", ScheduleConfig(computed=even)
        yield from (
            (name, item) for name, item in candidates.items() if name.startswith(RULES) or name in MEASURED
        )
        yield CALIBRATED, candidates[self.selection[budget]]

    def learn(self, budget: int) -> None:
        """Fills `candidates`, `selection` and `searches` for a budget.

        The selection has the best PSNR of frames among the schedules with the nearest latents and the rules
        that decide as they go.
        """
        rules, (schedules, results) = self._rules(budget), self._schedules(budget)
        scores = {name: self.study.score(policy) for name, policy in schedules.items()}
        nearest = {schedules[name]: name for name in sorted(scores, key=lambda name: scores[name])[-TRIED:]}
        self.candidates[budget] = {**rules, **schedules}
        quality = {}
        for policy, name in [*nearest.items(), *((policy, name) for name, policy in rules.items())]:
            computed, psnr = self.study.try_policy(policy)
            if computed <= budget + SLACK:
                quality[name] = psnr
        self.selection[budget] = max(quality, key=lambda name: quality[name])
        records = {str(kind): search_record(best) for kind, best in results.items()}
        self.searches[budget] = {"scores": scores, "quality": quality, **records}

    def _rules(self, budget: int) -> dict[str, CacheConfig]:
        """Policies that decide by a threshold."""
        study = self.study
        rules: dict[str, CacheConfig] = {
            "TeaCache naive, hold": teacache_for(study, budget, None),
            "TeaCache naive, linear": teacache_for(study, budget, None, forecast=Linear()),
            TEACACHE: teacache_for(study, budget, self.fit),
            "TeaCache, linear": teacache_for(study, budget, self.fit, forecast=Linear()),
        }
        magcache = magcache_for(budget, study.ratios)
        return rules if magcache is None else {**rules, "MagCache, hold": magcache}

    def _schedules(self, budget: int) -> tuple[dict[str, ScheduleConfig], dict[ForecastKind, SearchResult]]:
        """(schedules by dynamic programming and by search, the results of the search)."""
        study, schedules = self.study, {}
        for kind in FORECAST_KINDS:
            schedules[f"schedule, {kind}"] = study.cheapest([budget], kind)[budget].policy(study.times)
        for name, forecast in BETWEEN.items():
            schedules[name] = dataclasses.replace(schedules["schedule, linear"], forecast=forecast)
        results = study.search(budget, self.most_runs)
        for kind, best in results.items():
            schedules[f"searched, {kind}"] = best.schedule.policy(study.times)
        return schedules, results


def presets(config: Any) -> dict[str, Any]:
    """The policies that the model's config knows by name."""
    (field,) = (item for item in dataclasses.fields(config) if item.name == "cache")
    return dict(field.metadata.get("registry", {}))
