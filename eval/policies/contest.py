"""The entrants of a comparison, per number of evaluations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from eval.policies.report import CACHE, FORECAST, PLAN, SOLVER, STEPS, TEACACHE, Entry
from videosys import (
    BWCacheConfig,
    CacheConfig,
    EasyCacheConfig,
    Hermite,
    IntervalConfig,
    Linear,
    NoCacheConfig,
    PABConfig,
    SeaCacheConfig,
    SenCacheConfig,
    Taylor,
)
from videosys.calibration import (
    CONVERGED,
    FORECAST_KINDS,
    FULL,
    Bench,
    Candidate,
    Planner,
    Study,
    Trials,
    all_fits,
    magcache_for,
    measured_plans,
    nearest_threshold,
    select_fit,
    teacache_for,
)

BROADCASTS = ("pab_slow", "pab_fast")
EARLY = 0.1  # SenCache's early threshold as a share of the later one


@dataclass(frozen=True)
class Entrant:
    """One method of a comparison. sampler: config overrides, if it does not use the published sampler."""

    group: str
    name: str
    policy: CacheConfig
    sampler: Mapping[str, Any] = field(default_factory=dict)


class Contest:
    """The entrants of one model. most_runs: maximum number of full runs of a search per number of
    evaluations; 0 for no search. trials: measures candidates for plans.
    """

    def __init__(self, study: Study, most_runs: float, trials: Trials):
        self.study, self.most_runs, self.planner = study, most_runs, Planner(study)
        self.trials = trials
        self.fit = select_fit(all_fits(study.traces))

    def entries(self, bench: Bench, budget: int) -> list[Entry]:
        """Measure the entrants on the bench's prompts."""
        return [measured(bench, one, budget) for one in self.entrants(budget)]

    def broadcasts(self, bench: Bench) -> list[Entry]:
        """Measure Pyramid Attention Broadcast at the model's published settings, if it has any."""
        known = presets(self.study.config)
        policies = {name: known[name] for name in BROADCASTS if isinstance(known.get(name), PABConfig)}
        return [measured(bench, Entrant(CACHE, name, policy), None) for name, policy in policies.items()]

    def entrants(self, budget: int) -> Iterator[Entrant]:
        """Yield fewer steps, other solvers and grids, policies with a threshold or interval, schedules by
        forecast, and the plans chosen from the recorded runs.
        """
        for name, changes in self.planner.samplers(budget):
            published = name == self.planner.PUBLISHED
            yield Entrant(STEPS if published else SOLVER, name, NoCacheConfig(), changes)
        yield from self._rules(budget)
        for kind in FORECAST_KINDS:
            for schedule in self.study.cheapest([budget], kind).values():
                yield Entrant(FORECAST, f"schedule {kind}", self.study.policy(schedule))
        yield from self._plans(budget)
        if self.most_runs:
            for kind, found in self.study.search(budget, self.most_runs).items():
                yield Entrant(FORECAST, f"searched {kind}", self.study.policy(found.schedule))

    def _plans(self, budget: int) -> Iterator[Entrant]:
        """The plan for each reference: the promising candidate that is closest on the calibration prompts."""
        study = self.study
        more: list[Candidate] = []
        if study.surrogate is None:
            schedules = (study.cheapest([budget], kind).get(budget) for kind in FORECAST_KINDS)
            found = [study.policy(one) for one in schedules if one is not None]
            names = (f"schedule {type(policy.forecast).__name__.lower()}" for policy in found)
            more = [Candidate(name, policy, {}, {}) for name, policy in zip(names, found)]
        figures = measured_plans(self.planner, budget, self.trials, more)
        for reference in (FULL, CONVERGED):
            one, _ = max(figures, key=lambda pair: pair[1].get(reference, -math.inf))
            yield Entrant(PLAN, f"{reference}: {one.name}", one.policy, one.config)

    def _rules(self, budget: int) -> Iterator[Entrant]:
        """Yield online and interval policies, with thresholds tuned on the calibration prompts."""
        study = self.study
        for forecast in ({}, {"forecast": Linear()}):
            words = "linear" if forecast else "hold"
            for name, fit in (("TeaCache naive", None), ("TeaCache", self.fit)):
                yield Entrant(TEACACHE, f"{name}, {words}", teacache_for(study, budget, fit, **forecast))
        every = interval(budget, study.num_steps)
        for forecast in (Taylor(order=1), Taylor(order=2), Hermite()):
            policy = IntervalConfig(every=every, forecast=forecast)
            yield Entrant(CACHE, f"interval, {type(forecast).__name__} {forecast.order}", policy)
        magcache = magcache_for(budget, study.ratios)
        if magcache is not None:
            yield Entrant(CACHE, "MagCache", magcache)
        for name, make in self._online(budget).items():
            yield Entrant(CACHE, name, tuned(study, budget, make))

    def _online(self, budget: int) -> dict[str, Callable[[float], CacheConfig]]:
        """Online policies: name -> function from a threshold to the policy."""
        count = self.study.num_steps
        policies: dict[str, Callable[[float], CacheConfig]] = {
            "EasyCache": lambda value: EasyCacheConfig(value, warmup=min(5, budget // 3)),
            "SeaCache": SeaCacheConfig,
            "BWCache": lambda value: BWCacheConfig(value, reuse=bwcache_skips(budget, count) / count),
        }
        pairs = self.study.sensitivities
        if pairs is not None:
            most = interval(budget, count)
            policies["SenCache"] = lambda value: SenCacheConfig(pairs, value, EARLY * value, 0.2, most)
        return policies


def interval(budget: int, count: int) -> int:
    """The smallest interval with which at most `budget` of `count` steps compute."""
    fitting = (k for k in range(1, count) if len(IntervalConfig(k).computed_steps(count)) <= budget)
    return next(fitting, count)


def bwcache_skips(budget: int, count: int) -> int:
    """The smallest number of skips in a row with which BWCache can compute at most `budget` of `count` steps;
    all steps if none can.

    It compares two computed steps before it skips, and the last step computes.
    """

    def fewest(skips: int) -> int:
        return len({step for step in range(count) if step % (skips + 2) < 2} | {count - 1})

    return next((skips for skips in range(1, count) if fewest(skips) <= budget), count)


def tuned(study: Study, budget: int, make: Callable[[float], CacheConfig]) -> CacheConfig:
    """The policy with a threshold so that real runs compute about `budget` steps."""
    start = 0.1
    return make(nearest_threshold(budget, start, lambda value: study.try_policy(make(value))[0]))


def measured(bench: Bench, one: Entrant, budget: int | None) -> Entry:
    """Measure an entrant on each prompt of a bench."""
    rows = bench.measure(f"{one.name} {budget or ''}", one.policy, one.sampler)
    return Entry(one.group, one.name, budget, rows, replace(one.policy), dict(one.sampler))


def presets(config: Any) -> dict[str, Any]:
    """The cache presets of the model's config, by name."""
    (found,) = (item for item in dataclasses.fields(config) if item.name == "cache")
    return dict(found.metadata.get("registry", {}))
