"""A model under study: its traces, the search for schedules, and what policies give on held-out prompts."""

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
from videosys.calibration.surrogate import Recording, Surrogate, impulse_gains, is_deterministic
from videosys.calibration.thresholds import NAIVE, computed_steps, threshold_for
from videosys.config import config_to_dict
from videosys.generation.request import VideoJob, batches
from videosys.utils.progress import progress

LEAST_STEPS = 4
PROBES = 12  # steps at which the sensitivity is measured
LEAST_GAIN = 1e-3  # of the median, that of a step which does nothing
REUSED_STEP = 0.04  # a skipped step's share of a computed one, in the search's accounts


class Study:
    """Prompts to learn from, prompts to judge on, and a folder where every result is kept.

    config: of the model. learnt, held_out: prompts; a prompt's seed is the config's plus its place.
    search_size: how many of the learnt prompts the search runs, in micro-batches of the config's batch_size.
    check: called with the number of evaluations before anything is written, to raise what does not fit it.
    kept: what schedules keep of a computed step. Where the sampler draws no noise it is the prediction, which
        brings more, and of which a full run tells all.
    """

    kept: Place = STACK
    tries_thresholds = False  # also where nothing is searched

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
        self.journal = Journal(folder, about)

    @property
    def num_steps(self) -> int:
        """Model evaluations of one run."""
        return len(self.times)

    def sampler(
        self, changes: Mapping[str, Any] = MappingProxyType({}), samples: int = 1, seed: int = 0
    ) -> Any:
        """A new sampler of the config, or of the config with changes, with the noise of a seed."""
        config = replace(self.config, **changes)
        return self.pipeline.family.sampler(config, [torch.Generator().manual_seed(seed)] * samples)

    @functools.cached_property
    def traces(self) -> list[Trace]:
        """The full run of each prompt to learn from."""
        traces = []
        for place, job in enumerate(progress(self.learnt, "full runs", quiet=self.quiet)):
            path = self.folder / f"trace-{place:03d}.safetensors"
            if not path.exists():
                trace(Clips(self.pipeline, self.config, [job]), self.kept).save(path)
            traces.append(Trace.load(path))
        return traces

    @property
    def full_seconds(self) -> float:
        """Seconds on the clock that a full run of the first prompt takes, without decoding."""

        def run() -> float:
            clips = Clips(self.pipeline, self.config, self.learnt[:1])
            begin = time.perf_counter()
            clips.run(NoCacheConfig())
            return time.perf_counter() - begin

        return self.journal.result("seconds of a full run", run)

    @property
    def ratios(self) -> tuple[float, ...]:
        """MagCache's, one for each evaluation: means over the prompts."""
        means = mean_columns(item.ratios for item in self.traces)
        return (1.0, *(round(value, 5) for value in means))

    @functools.cached_property
    def searched(self) -> list[tuple[Clips, torch.Tensor]]:
        """Micro-batches of prompts for the search, with their full runs' latents."""
        size = self.config.batch_size
        runs = list(batches(self.learnt[: self.search_size], size))
        latents = torch.cat([item.latents for item in self.traces[: self.search_size]]).split(size)
        return [(Clips(self.pipeline, self.config, jobs), rows) for jobs, rows in zip(runs, latents)]

    @functools.cached_property
    def surrogate(self) -> Surrogate | None:
        """The full runs as a model that costs nothing; None where residuals are kept."""
        if self.kept == STACK:
            return None
        samples, predictions = (
            torch.stack([getattr(item, name) for item in self.traces], dim=1) for name in PATH
        )
        path = Recording(samples, predictions, torch.cat([item.latents for item in self.traces]))
        return Surrogate(path, self.sampler(), self.config.prediction, self.config.guidance_scale)

    @property
    def sensitivities(self) -> Sensitivities | None:
        """SenCache's, one pair for each evaluation; None where residuals are kept."""
        return None if self.surrogate is None else self.surrogate.sensitivities()

    @functools.cached_property
    def programme(self) -> Programme:
        """The schedules of the published sampler."""
        return Programme(self.segments)

    @functools.cached_property
    def segments(self) -> Segments:
        """What each segment of a schedule costs."""
        if self.surrogate is not None:
            return self.surrogate.segments(lambda samples: self.sampler(samples=samples))
        return Segments([item.tried for item in self.traces], self.measured_gains(), self.times)

    def measured_gains(self) -> list[float]:
        """How far an error of each step's prediction moves the final latents: measured at some steps, and
        between these in proportion to what it does by the sampler alone.
        """
        impulses = impulse_gains(lambda samples: self.sampler(samples=samples), lambda mix: 0.0)
        alone = [abs(gain) for gain in impulses]
        count = self.num_steps
        least = LEAST_GAIN * statistics.median(alone)  # some steps of PNDM have none
        telling = [step for step in range(1, count) if alone[step] > least]
        places = sorted({telling[round(i * (len(telling) - 1) / (PROBES - 1))] for i in range(PROBES)})
        clips, _ = self.searched[0]
        probed = self.traces[: len(clips.jobs)]

        def gain(step: int) -> float:
            return self.journal.result(f"sensitivity {step}", lambda: sensitivity(clips, probed, step))

        shares = [gain(step) / alone[step] for step in progress(places, "sensitivity", quiet=self.quiet)]
        return [share * max(own, least) for share, own in zip(interpolated(places, shares, count), alone)]

    def score(self, policy: CacheConfig) -> float:
        """The mean dB of the final latents against the full runs, over the prompts of the search."""

        def run() -> float:
            runs = ((clips.run(policy).latents.cpu(), reference) for clips, reference in self.searched)
            return statistics.fmean(value for pair in runs for value in error_db(*pair))

        return self.journal.result(f"score {policy_key(policy)}", run)

    def cheapest(self, budgets: Iterable[int], kind: ForecastKind, power: float = 2.0) -> dict[int, Schedule]:
        """The schedules that dynamic programming finds for numbers of computed steps."""
        return self.programme.cheapest(budgets, kind, power)

    def policy(self, schedule: Schedule) -> ScheduleConfig:
        """A schedule as settings of a cache."""
        return schedule.policy(self.times, self.kept)

    def search(
        self, budget: int, most_runs: float, kinds: Sequence[ForecastKind] = FORECAST_KINDS
    ) -> dict[ForecastKind, SearchResult]:
        """The best schedule with each forecast for a number of computed steps.

        Dynamic programming and TeaCache's rule propose some; of these the best, and the best that holds, are
        improved by coordinate descent. most_runs: how much may be run for it all, in full runs; with 0 the
        first that is proposed for each forecast has to do, without a score.
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
        # Holding is what every sampler can take.
        promising = list(dict.fromkeys([best, *(kind for kind in results if kind == "hold")]))
        for kind in promising:
            results[kind] = self._descend(results[kind], kind, allowed // len(promising))
        return results

    def proposals(self, budget: int, kind: ForecastKind) -> list[Schedule]:
        """Schedules to begin a search with, none twice."""
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
        """The bench of the search's prompts, without timing."""
        jobs = self.learnt[: self.search_size]
        return Bench(self.pipeline, self.config, jobs, self.journal, quiet=self.quiet, timed=0)

    def try_policy(self, policy: CacheConfig) -> tuple[float, float]:
        """(mean number of computed steps, mean PSNR in dB) of real runs on the prompts of the search."""
        rows = self.trial.measure("trial", policy)
        computed, quality = mean_columns((row.computed, row.psnr[FULL]) for row in rows)
        return computed, quality

    def bench(self, references: dict[str, dict[str, Any]] | None = None, **options: Any) -> Bench:
        """The bench of the held-out prompts; the arguments are those of `Bench`."""
        return Bench(
            self.pipeline, self.config, self.held_out, self.journal, references, self.quiet, **options
        )


def changed_fields(config: Any) -> dict[str, Any]:
    """The fields of a config that differ from their defaults, as plain values: fields added later change
    nothing.
    """
    default = config_to_dict(type(config)())
    return {name: value for name, value in config_to_dict(config).items() if value != default[name]}


def share_of(budget: int, steps: int) -> float:
    """The time of a run with `budget` computed steps, as a share of the full run's."""
    return budget / steps + REUSED_STEP * (1 - budget / steps)
