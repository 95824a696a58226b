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
from videosys.calibration.search import KINDS, Found, Kind
from videosys.calibration.study import Study
from videosys.calibration.thresholds import SLACK, magcache_for
from videosys.calibration.work import Work

# Between holding and following the line, on the schedule that was made for the line.
BETWEEN: dict[str, Forecast] = {
    "schedule, damped": Linear(damping=0.5),
    "schedule, gap-limited": Linear(max_gap=2),
}
# Of the schedules; for the others, and for what BETWEEN says, the score on the learnt prompts has to do.
MEASURED = ("schedule, hold", "schedule, linear", "searched, hold")
RULES = ("TeaCache", "MagCache")
OFFERED = ("TeaCache, ", "MagCache, ", "schedule, ", "searched, ", CALIBRATED)
TRIED = 3  # schedules of which frames are looked at before one is chosen
BROADCASTS = {"pab_slow": f"{PAB} slow", "pab_fast": f"{PAB} fast"}


class Contest:
    """The runs of one comparison.

    offered: for each budget the policies there are, by name. chosen: the name of what the calibration took,
    by the frames on prompts that it learnt from. found: the scores, and what the search found.
    """

    def __init__(self, study: Study, bench: Bench, work: Work, most_runs: float):
        self.study, self.bench, self.work, self.most_runs = study, bench, work, most_runs
        self.fits = all_fits(study.traces)
        self.fit = chosen_fit(self.fits)
        self.offered: dict[int, dict[str, CacheConfig]] = {}
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
        last, offered = self.study.num_steps - 1, self.offered[budget]
        even = tuple(round(place * last / (budget - 1)) for place in range(budget))
        yield "interval, hold", ScheduleConfig(computed=even)
        yield from ((name, offered[name]) for name in offered if name.startswith(RULES) or name in MEASURED)
        yield CALIBRATED, offered[self.chosen[budget]]

    def learn(self, budget: int) -> None:
        """Finds what can be had at a budget, and chooses: by the frames, among the schedules whose latents
        come nearest and the rules that decide as they go.
        """
        rules, (schedules, found) = self._rules(budget), self._schedules(budget)
        scores = {name: self.study.score(policy) for name, policy in schedules.items()}
        nearest = {schedules[name]: name for name in sorted(scores, key=lambda name: scores[name])[-TRIED:]}
        self.offered[budget] = {**rules, **schedules}
        quality = {}
        for policy, name in [*nearest.items(), *((policy, name) for name, policy in rules.items())]:
            computed, psnr = self.study.tried(policy)
            if computed <= budget + SLACK:
                quality[name] = psnr
        self.chosen[budget] = max(quality, key=lambda name: quality[name])
        told_of = {str(kind): told(best) for kind, best in found.items()}
        self.found[budget] = {"scores": scores, "quality": quality, **told_of}

    def _rules(self, budget: int) -> dict[str, CacheConfig]:
        """Policies that decide by a threshold."""
        study = self.study
        made: dict[str, CacheConfig] = {
            "TeaCache naive, hold": teacache(study, budget, None),
            "TeaCache naive, linear": teacache(study, budget, None, forecast=Linear()),
            TEACACHE: teacache(study, budget, self.fit),
            "TeaCache, linear": teacache(study, budget, self.fit, forecast=Linear()),
        }
        magcache = magcache_for(budget, study.ratios)
        return made if magcache is None else {**made, "MagCache, hold": magcache}

    def _schedules(self, budget: int) -> tuple[dict[str, ScheduleConfig], dict[Kind, Found]]:
        """Schedules by dynamic programming and by search, and what the search says of its own."""
        study, made = self.study, {}
        for kind in KINDS:
            made[f"schedule, {kind}"] = study.cheapest([budget], kind)[budget].policy(study.times)
        for name, forecast in BETWEEN.items():
            made[name] = dataclasses.replace(made["schedule, linear"], forecast=forecast)
        found = study.search(budget, self.most_runs)
        for kind, best in found.items():
            made[f"searched, {kind}"] = best.schedule.policy(study.times)
        return made, found


def presets(config: Any) -> dict[str, Any]:
    """The policies that the model's config knows by name."""
    (field,) = (item for item in dataclasses.fields(config) if item.name == "cache")
    return dict(field.metadata.get("registry", {}))
