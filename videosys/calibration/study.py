"""A study of one model: its traces, the schedule search, and measurements on held-out prompts."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from videosys.cache import CacheConfig, NoCacheConfig, ScheduleConfig
from videosys.cache.base import OUTPUT, STACK, Place
from videosys.cache.sencache import Sensitivities
from videosys.calibration.collect import PATH, WATCHED, Trace, mean_columns, sensitivity, trace
from videosys.calibration.journal import Journal, policy_key
from videosys.calibration.measure import FULL, Bench
from videosys.calibration.runs import Clips, error_db, open_pipeline
from videosys.calibration.search import (
    FORECAST_KINDS,
    POWERS,
    ForecastKind,
    Programme,
    Schedule,
    SearchResult,
    Segments,
    descend,
    interpolated,
    padded,
)
from videosys.calibration.surrogate import Recording, Steps, Surrogate, impulse_gains, is_deterministic
from videosys.calibration.thresholds import NAIVE, computed_steps, threshold_for
from videosys.config import config_to_dict
from videosys.generation.request import VideoJob, batches
from videosys.utils.progress import progress

LEAST_STEPS = 4
PROBES = 12  # steps at which the sensitivity is measured
LEAST_GAIN = 1e-3  # lower bound of a gain, as a share of the median
REUSED_STEP = 0.04  # assumed cost of a skipped step as a share of a computed one


class Study:
    """Calibration prompts, held-out prompts, and a folder that stores every result.

    config: of the model. learnt: calibration prompts. A prompt's seed is the config's seed plus its index.
    search_size: number of calibration prompts for the search, in micro-batches of the config's batch_size.
    check: called with the number of evaluations before anything is written; may raise ValueError.
    kept: what schedules keep of a computed step. For a sampler without noise it is the prediction, which
        saves more time and is fully recorded by a full run; otherwise the residual.
    """

    kept: Place = STACK
    tries_thresholds = False  # true: also without a search

    def __init__(
        self,
        config: Any,
        learnt: Sequence[str],
        held_out: Sequence[str],
        folder: Path,
        search_size: int = 4,
        quiet: bool = False,
        check: Callable[[int], object] = lambda steps: None,
    ):
        self.pipeline, self.config = open_pipeline(config, quiet)
        seeds = range(self.config.seed, self.config.seed + len(learnt) + len(held_out))
        jobs = [VideoJob(prompt, seed) for prompt, seed in zip([*learnt, *held_out], seeds)]
        self.learnt, self.held_out = jobs[: len(learnt)], jobs[len(learnt) :]
        self.search_size, self.quiet, self.folder = search_size, quiet, Path(folder)
        self.times = self.sampler().times()
        if self.num_steps < LEAST_STEPS:
            raise ValueError(f"the run has {self.num_steps} evaluations; calibration needs {LEAST_STEPS}")
        check(self.num_steps)
        if getattr(self.config, "prediction", None) and is_deterministic(
            lambda seed: self.sampler(seed=seed)
        ):
            self.kept = OUTPUT
        self.scope = self.pipeline.scope(self.config)
        about = [asdict(self.scope), [asdict(job) for job in self.learnt], changed_fields(self.config)]
        about += [self.kept] if self.kept != STACK else []
        about += [f"search of {search_size}"] if search_size < len(self.learnt) else []
        self.journal = Journal(folder, about)

    @property
    def num_steps(self) -> int:
        """Model evaluations of one run."""
        return len(self.times)

    def sampler(
        self, changes: Mapping[str, Any] = MappingProxyType({}), samples: int = 1, seed: int = 0
    ) -> Any:
        """A new sampler of the config with overrides. seed: of its noise."""
        config = replace(self.config, **changes)
        return self.pipeline.family.sampler(config, [torch.Generator().manual_seed(seed)] * samples)

    @functools.cached_property
    def traces(self) -> list[Trace]:
        """The trace of each calibration prompt."""
        traces = []
        for place, job in enumerate(progress(self.learnt, "full runs", quiet=self.quiet)):
            path = self.folder / f"trace-{place:03d}.safetensors"
            if not path.exists():
                trace(Clips(self.pipeline, self.config, [job]), self.kept).save(path)
            traces.append(Trace.load(path))
        return traces

    @property
    def full_seconds(self) -> float:
        """Wall time in seconds of a full run of the first prompt, without decoding."""

        def run() -> float:
            clips = Clips(self.pipeline, self.config, self.learnt[:1])
            begin = time.perf_counter()
            clips.run(NoCacheConfig())
            return time.perf_counter() - begin

        return self.journal.result("seconds of a full run", run)

    @property
    def ratios(self) -> tuple[float, ...]:
        """MagCache's residual ratios, one per evaluation, averaged over the prompts."""
        means = mean_columns(item.ratios for item in self.traces)
        return (1.0, *(round(value, 5) for value in means))

    @functools.cached_property
    def searched(self) -> list[tuple[Clips, torch.Tensor]]:
        """Micro-batches of the search's prompts, with the latents of their full runs."""
        size = self.config.batch_size
        runs = list(batches(self.learnt[: self.search_size], size))
        latents = torch.cat([item.latents for item in self.traces[: self.search_size]]).split(size)
        return [(Clips(self.pipeline, self.config, jobs), rows) for jobs, rows in zip(runs, latents)]

    @functools.cached_property
    def surrogate(self) -> Surrogate | None:
        """A surrogate model built from the full runs; None if residuals are kept."""
        if self.kept == STACK:
            return None
        samples, predictions = (Steps([getattr(item, name) for item in self.traces]) for name in PATH)
        path = Recording(samples, predictions, torch.cat([item.latents for item in self.traces]))
        return Surrogate(path, self.sampler(), self.config.prediction, self.config.guidance_scale)

    @functools.cached_property
    def sensitivities(self) -> Sensitivities | None:
        """SenCache's sensitivities, one pair per evaluation; None if residuals are kept."""
        return None if self.surrogate is None else self.surrogate.sensitivities()

    @functools.cached_property
    def programme(self) -> Programme:
        """The dynamic program for schedules of the published sampler."""
        return Programme(self.segments)

    @functools.cached_property
    def segments(self) -> Segments:
        """The costs of a schedule's segments."""
        if self.surrogate is not None:
            return self.surrogate.segments(lambda samples: self.sampler(samples=samples))
        return Segments([item.tried for item in self.traces], self.measured_gains(), self.times)

    def measured_gains(self) -> list[float]:
        """The effect of an error of each step's prediction on the final latents. It is measured at some
        steps, and interpolated between them in proportion to the sampler's own gain.
        """
        impulses = impulse_gains(lambda samples: self.sampler(samples=samples), lambda mix: 0.0)
        alone = [abs(gain) for gain in impulses]
        count = self.num_steps
        least = LEAST_GAIN * statistics.median(alone)  # some steps of PNDM have a gain of 0
        telling = [step for step in range(1, count) if alone[step] > least]
        places = sorted({telling[round(i * (len(telling) - 1) / (PROBES - 1))] for i in range(PROBES)})
        clips, _ = self.searched[0]
        probed = self.traces[: len(clips.jobs)]

        def gain(step: int) -> float:
            return self.journal.result(f"sensitivity {step}", lambda: sensitivity(clips, probed, step))

        shares = [gain(step) / alone[step] for step in progress(places, "sensitivity", quiet=self.quiet)]
        return [share * max(own, least) for share, own in zip(interpolated(places, shares, count), alone)]

    def score(self, policy: CacheConfig) -> float:
        """Mean dB of the final latents against the full runs, over the search's prompts."""

        def run() -> float:
            runs = ((clips.run(policy).latents.cpu(), reference) for clips, reference in self.searched)
            return statistics.fmean(value for pair in runs for value in error_db(*pair))

        return self.journal.result(f"score {policy_key(policy)}", run)

    def cheapest(self, budgets: Iterable[int], kind: ForecastKind, power: float = 2.0) -> dict[int, Schedule]:
        """The schedules found by dynamic programming, by number of computed steps."""
        return self.programme.cheapest(budgets, kind, power)

    def policy(self, schedule: Schedule) -> ScheduleConfig:
        """A schedule as a cache config."""
        return schedule.policy(self.times, self.kept)

    def search(
        self, budget: int, most_runs: float, kinds: Sequence[ForecastKind] = FORECAST_KINDS
    ) -> dict[ForecastKind, SearchResult]:
        """The best schedule with each forecast for a number of computed steps.

        Dynamic programming and TeaCache's rule propose schedules. Coordinate descent then improves the best
        one and the best one that holds residuals. most_runs: total limit in full runs; with 0, the first
        proposal for each forecast is returned without a score.
        """
        if not most_runs:
            first = {kind: self.proposals(budget, kind)[0] for kind in kinds}
            return {kind: SearchResult(schedule, math.nan, 0) for kind, schedule in first.items()}
        share = share_of(budget, self.num_steps)
        allowed = int(most_runs / (share * min(self.search_size, len(self.learnt))))
        results: dict[ForecastKind, SearchResult] = {}
        for kind in kinds:
            scores = {one: self.score(self.policy(one)) for one in self.proposals(budget, kind)}
            start = max(scores, key=lambda one: scores[one])
            results[kind] = SearchResult(start, scores[start], len(scores))
        allowed -= sum(one.num_runs for one in results.values())
        best = max(results, key=lambda kind: results[kind].score)
        # Every sampler supports holding.
        promising = list(dict.fromkeys([best, *(kind for kind in results if kind == "hold")]))
        for kind in promising:
            results[kind] = self._descend(results[kind], kind, allowed // len(promising))
        return results

    def proposals(self, budget: int, kind: ForecastKind) -> list[Schedule]:
        """Distinct schedules to start a search with."""
        steps = [one.computed for power in POWERS for one in self.cheapest([budget], kind, power).values()]
        changes = mean_columns(one.distances[WATCHED] for one in self.traces)
        threshold = threshold_for(budget, [changes], NAIVE, self.num_steps - 1)
        by_change = computed_steps(changes, NAIVE, threshold, self.num_steps - 1)
        every = [*steps, tuple(padded(by_change, budget))]
        return [self.segments.schedule(computed, kind) for computed in dict.fromkeys(every)]

    def _descend(self, start: SearchResult, kind: ForecastKind, most: int) -> SearchResult:
        steps = len(start.schedule.computed)
        with progress(None, f"search {steps} {kind}", total=most, quiet=self.quiet) as bar:

            def score(schedule: Schedule) -> float:
                bar.update()
                return self.score(self.policy(schedule))

            result = descend(
                start.schedule, lambda schedule: self.segments.neighbours(schedule, kind), score, most
            )
            return replace(result, num_runs=result.num_runs + start.num_runs)

    @functools.cached_property
    def trial(self) -> Bench:
        """The bench for the search's prompts, without timing."""
        jobs = self.learnt[: self.search_size]
        return Bench(self.pipeline, self.config, jobs, self.journal, quiet=self.quiet, timed=0)

    def try_policy(self, policy: CacheConfig) -> tuple[float, float]:
        """Run a policy on the search's prompts: (mean number of computed steps, mean PSNR in dB)."""
        rows = self.trial.measure("trial", policy)
        computed, quality = mean_columns((row.computed, row.psnr[FULL]) for row in rows)
        return computed, quality

    def bench(self, references: dict[str, dict[str, Any]] | None = None, **options: Any) -> Bench:
        """The bench for the held-out prompts; takes the arguments of `Bench`."""
        return Bench(
            self.pipeline, self.config, self.held_out, self.journal, references, self.quiet, **options
        )


def changed_fields(config: Any) -> dict[str, Any]:
    """The fields of a config that differ from their defaults, as plain values. Fields added in later versions
    do not change the result.
    """
    default = config_to_dict(type(config)())
    return {name: value for name, value in config_to_dict(config).items() if value != default[name]}


def share_of(budget: int, steps: int) -> float:
    """The time of a run with `budget` computed steps, as a share of the full run's."""
    return budget / steps + REUSED_STEP * (1 - budget / steps)
