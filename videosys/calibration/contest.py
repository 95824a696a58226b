"""All policies of a comparison, at one number of computed steps after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from videosys.cache import CacheConfig, Forecast, Linear, PABConfig, ScheduleConfig
from videosys.calibration.calibrate import Report, Row, all_fits, chosen_fit, teacache, told
from videosys.calibration.measure import Bench, summary
from videosys.calibration.report import CALIBRATED, PAB, TEACACHE, Entry
from videosys.calibration.rivals import cosine_steps, fewer_steps, has_cosine
from videosys.calibration.search import KINDS
from videosys.calibration.study import Study
from videosys.calibration.thresholds import magcache_for
from videosys.calibration.work import Work

# Between holding and following the line, on the schedule that was made for the line.
BETWEEN: dict[str, Forecast] = {
    "schedule, damped": Linear(damping=0.5),
    "schedule, gap-limited": Linear(max_gap=2),
}
# Of the schedules; for the others, and for what BETWEEN says, the score on the learnt prompts has to do.
MEASURED = ("schedule, hold", "schedule, linear", "searched, hold")
OFFERED = ("TeaCache, ", "MagCache, ", "schedule, ", "searched, ", CALIBRATED)
BROADCASTS = {"pab_slow": f"{PAB} slow", "pab_fast": f"{PAB} fast"}


class Contest:
    """The runs of one comparison.

    chosen: for each budget the name of what the calibration took, by the score on the prompts it learnt from.
    found: for each budget the scores, and what the search found.
    """

    def __init__(self, study: Study, bench: Bench, work: Work, most_runs: float):
        self.study, self.bench, self.work, self.most_runs = study, bench, work, most_runs
        self.fits = all_fits(study.traces)
        self.fit = chosen_fit(self.fits)
        self.schedules: dict[int, dict[str, ScheduleConfig]] = {}
        self.chosen: dict[int, str] = {}
        self.found: dict[int, dict[str, Any]] = {}

    def broadcasts(self) -> Iterator[Entry]:
        """Pyramid Attention Broadcast, where there are settings of it for the model."""
        for name, label in BROADCASTS.items():
            policy = presets(self.study.config).get(name)
            if isinstance(policy, PABConfig):
                rows = self.bench.measure(label, policy)
                yield Entry(label, None, rows, self.work.of_policy(policy), policy)

    def report(self, entries: Sequence[Entry]) -> Report:
        """What a calibration would have reported: TeaCache, MagCache and the schedules, none twice."""
        rows = {
            (one.budget, one.policy): Row(one.name, one.budget, one.policy, summary(one.rows))
            for one in reversed(entries)
            if one.policy is not None and one.budget is not None and one.name.startswith(OFFERED)
        }
        return Report(self.study, tuple(self.fits), self.fit, tuple(reversed(rows.values())), self.found)

    def at(self, budget: int) -> list[Entry]:
        """All that compute about so many steps, after `learn`."""
        made = [*self._fewer(budget)]
        for name, policy in self._policies(budget):
            rows = self.bench.measure(f"{name} {budget}", policy)
            made.append(Entry(name, budget, rows, self.work.of_rows(rows), policy))
        return made

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
        study, last = self.study, self.study.num_steps - 1
        even = tuple(round(place * last / (budget - 1)) for place in range(budget))
        yield "interval, hold", ScheduleConfig(computed=even)
        yield "TeaCache naive, hold", teacache(study, budget, None)
        yield "TeaCache naive, linear", teacache(study, budget, None, forecast=Linear())
        yield TEACACHE, teacache(study, budget, self.fit)
        yield "TeaCache, linear", teacache(study, budget, self.fit, forecast=Linear())
        magcache = magcache_for(budget, study.ratios)
        if magcache is not None:
            yield "MagCache, hold", magcache
        schedules = self.schedules[budget]
        yield from ((name, schedules[name]) for name in MEASURED)
        yield CALIBRATED, schedules[self.chosen[budget]]

    def learn(self, budget: int) -> None:
        """Finds the schedules by dynamic programming and by search, and chooses among them."""
        study, made = self.study, self.schedules.setdefault(budget, {})
        for kind in KINDS:
            made[f"schedule, {kind}"] = study.cheapest([budget], kind)[budget].policy(study.times)
        for name, forecast in BETWEEN.items():
            made[name] = dataclasses.replace(made["schedule, linear"], forecast=forecast)
        found = study.search(budget, self.most_runs)
        for kind, best in found.items():
            made[f"searched, {kind}"] = best.schedule.policy(study.times)
        scores = {name: study.score(policy) for name, policy in made.items()}
        self.chosen[budget] = max(scores, key=lambda name: scores[name])
        self.found[budget] = {"scores": scores, **{kind: told(best) for kind, best in found.items()}}


def presets(config: Any) -> dict[str, Any]:
    """The policies that the model's config knows by name."""
    (field,) = (item for item in dataclasses.fields(config) if item.name == "cache")
    return dict(field.metadata.get("registry", {}))
