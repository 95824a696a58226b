"""All entrants of a comparison, for one number of evaluations after another."""

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
    nearest_threshold,
    select_fit,
    teacache_for,
    tried,
)

BROADCASTS = ("pab_slow", "pab_fast")
EARLY = 0.1  # SenCache's early threshold, as a share of the later one


@dataclass(frozen=True)
class Entrant:
    """What is compared. sampler: changes of the config, where it is not the published sampler's full run."""

    group: str
    name: str
    policy: CacheConfig
    sampler: Mapping[str, Any] = field(default_factory=dict)


class Contest:
    """The entrants of one model. most_runs: full runs that a search may take for each number of evaluations,
    beside the schedules of four runs; 0 for no search.
    """

    def __init__(self, study: Study, most_runs: float):
        self.study, self.most_runs, self.planner = study, most_runs, Planner(study)
        self.fit = select_fit(all_fits(study.traces))

    def entries(self, bench: Bench, budget: int) -> list[Entry]:
        """What the entrants give on the bench's prompts."""
        return [measured(bench, one, budget) for one in self.entrants(budget)]

    def broadcasts(self, bench: Bench) -> list[Entry]:
        """Pyramid Attention Broadcast at its published settings, where there are any for the model."""
        known = presets(self.study.config)
        policies = {name: known[name] for name in BROADCASTS if isinstance(known.get(name), PABConfig)}
        return [measured(bench, Entrant(CACHE, name, policy), None) for name, policy in policies.items()]

    def entrants(self, budget: int) -> Iterator[Entrant]:
        """In this order: fewer steps, other solvers and grids, caches that hold, caches with a forecast, and
        what is chosen from all that recorded runs tell of.
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
        """The plan for each reference: of the promising candidates the nearest on the prompts learnt from."""
        study = self.study
        candidates = self.planner.candidates(budget)
        if study.surrogate is None:
            schedules = (study.cheapest([budget], kind).get(budget) for kind in FORECAST_KINDS)
            found = [study.policy(one) for one in schedules if one is not None]
            names = (f"schedule {type(policy.forecast).__name__.lower()}" for policy in found)
            candidates += [Candidate(name, policy, {}, {}) for name, policy in zip(names, found)]
        figures = tried(candidates, Trials(study, len(study.learnt)))
        for reference in (FULL, CONVERGED):
            one, _ = max(figures, key=lambda pair: pair[1].get(reference, -math.inf))
            yield Entrant(PLAN, f"{reference}: {one.name}", one.policy, one.config)

    def _rules(self, budget: int) -> Iterator[Entrant]:
        """Policies that decide as they go, with thresholds by real runs on the prompts learnt from."""
        study, count = self.study, self.study.num_steps
        for forecast in ({}, {"forecast": Linear()}):
            words = "linear" if forecast else "hold"
            for name, fit in (("TeaCache naive", None), ("TeaCache", self.fit)):
                yield Entrant(TEACACHE, f"{name}, {words}", teacache_for(study, budget, fit, **forecast))
        every = round(count / budget)
        for forecast in (Taylor(order=1), Taylor(order=2), Hermite()):
            policy = IntervalConfig(every=every, forecast=forecast)
            yield Entrant(CACHE, f"interval, {type(forecast).__name__} {forecast.order}", policy)
        magcache = magcache_for(budget, study.ratios)
        if magcache is not None:
            yield Entrant(CACHE, "MagCache", magcache)
        for name, make in self._online(budget).items():
            yield Entrant(CACHE, name, tuned(study, budget, make))

    def _online(self, budget: int) -> dict[str, Callable[[float], CacheConfig]]:
        """Policies by their threshold."""
        count = self.study.num_steps
        policies: dict[str, Callable[[float], CacheConfig]] = {
            "EasyCache": lambda value: EasyCacheConfig(value, warmup=min(5, budget // 3)),
            "SeaCache": SeaCacheConfig,
            "BWCache": lambda value: BWCacheConfig(value, reuse=max(count / budget - 1, 1) / count),
        }
        pairs = self.study.sensitivities
        if pairs is not None:
            most = -(-count // budget)
            policies["SenCache"] = lambda value: SenCacheConfig(pairs, value, EARLY * value, 0.2, most)
        return policies


def tuned(study: Study, budget: int, make: Callable[[float], CacheConfig]) -> CacheConfig:
    """The policy whose real runs compute about this many steps."""
    start = 0.1
    return make(nearest_threshold(budget, start, lambda value: study.try_policy(make(value))[0]))


def measured(bench: Bench, one: Entrant, budget: int | None) -> Entry:
    """What an entrant gives on each prompt of a bench."""
    name = f"{one.name} {budget or ''}"
    if one.sampler:
        rows = bench.measure_sampler(name, one.policy, one.sampler)
    else:
        rows = bench.measure(name, one.policy)
    return Entry(one.group, one.name, budget, rows, replace(one.policy), dict(one.sampler))


def presets(config: Any) -> dict[str, Any]:
    """The policies that the model's config knows by name."""
    (found,) = (item for item in dataclasses.fields(config) if item.name == "cache")
    return dict(found.metadata.get("registry", {}))
