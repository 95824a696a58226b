"""The candidate plans of a calibration (solver, grid and cache), ranked by predictions from recorded runs."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from videosys.cache import CacheConfig, NoCacheConfig, ScheduleConfig
from videosys.cache.base import OUTPUT
from videosys.calibration.journal import run_key
from videosys.calibration.measure import CONVERGED, FULL
from videosys.calibration.runs import Clips, error_db
from videosys.calibration.search import FORECAST_KINDS, ForecastKind, Programme
from videosys.calibration.study import Study
from videosys.metrics import psnr
from videosys.schedulers.solvers import (
    SCHEDULERS,
    DPMSolverConfig,
    EulerConfig,
    PublishedConfig,
    SchedulerConfig,
    UniPCConfig,
)
from videosys.utils.plain import name_in, to_plain

SHIFTS = (1.0, 1.5, 2.0, 3.0, 4.0)  # of flow models' grids
MIDDLE_SHIFT = 2.0
ON_TOP = 1.5  # steps per evaluation for a solver with cached predictions
ON_TOP_KINDS: tuple[ForecastKind, ...] = ("linear", "fitted", "joint")
CONVERGED_STEPS = 120  # of a solver of order 2
TRIAL_STEPS = 60  # steps of the converged run that trials are compared with
TRIED = 1  # number of prompts for trials if none is held out
LEAST_TRIES, MOST_TRIES = 2, 4  # candidates measured per number of evaluations and reference
DECODED = 2  # prompts that are decoded to relate latent error to frame error


@dataclass(frozen=True)
class Candidate:
    """A plan. config: the fields scheduler and num_inference_steps if the sampler is not the published one.
    predicted: PSNR in dB against each reference, predicted from the recorded runs; empty if not predictable.
    """

    name: str
    policy: CacheConfig
    config: Mapping[str, Any]
    predicted: Mapping[str, float]

    def near(self, reference: str) -> float:
        """The predicted PSNR; infinite without a prediction, so that the candidate is tried."""
        return self.predicted.get(reference, math.inf)

    @property
    def kind(self) -> tuple[Any, ...]:
        """A key shared by candidates that differ only in their grid."""
        forecast = type(self.policy.forecast) if isinstance(self.policy, ScheduleConfig) else None
        return (type(self.config.get("scheduler")), forecast)


def solvers(prediction: str) -> list[SchedulerConfig]:
    """The published sampler, then solvers with their grids for a prediction type. Within each kind of solver,
    the default comes first; it is used when recorded runs allow no prediction.
    """
    if prediction == "flow":
        shifts = sorted(SHIFTS, key=lambda shift: abs(math.log(shift / MIDDLE_SHIFT)))
        kinds = (EulerConfig, DPMSolverConfig)
        grids = [kind(shift=shift) for kind in kinds for shift in shifts]
        return [PublishedConfig(), *grids, UniPCConfig(shift=MIDDLE_SHIFT)]
    multistep = [
        DPMSolverConfig(grid="lu"),
        DPMSolverConfig(grid="lu", order=3),
        DPMSolverConfig(grid="linspace"),
    ]
    return [PublishedConfig(), *multistep, UniPCConfig()]


def converged(config: Any) -> dict[str, Any]:
    """Config overrides for a converged run, which more steps would not change; empty for an unknown
    prediction type.
    """
    prediction = getattr(config, "prediction", None)
    if prediction is None:
        return {}
    solver = DPMSolverConfig(shift=MIDDLE_SHIFT) if prediction == "flow" else DPMSolverConfig()
    return {"scheduler": solver, "num_inference_steps": CONVERGED_STEPS}


def plain_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Sampler overrides in the layout of a calibration file."""
    if not changes:
        return {}
    solver = changes["scheduler"]
    options = {key: value for key, value in to_plain(solver).items() if value is not None}
    return {**changes, "scheduler": {"name": name_in(SCHEDULERS, solver), **options}}


class Planner:
    """Selects candidate plans for a study's model, per number of evaluations."""

    PUBLISHED = "steps of the published sampler"

    def __init__(self, study: Study):
        self.study, self.surrogate = study, study.surrogate

    @functools.cached_property
    def targets(self) -> dict[str, torch.Tensor]:
        """The final latents of each reference run."""
        assert self.surrogate is not None
        many = self.surrogate.run(self.study.sampler(converged(self.study.config)))
        return {FULL: self.surrogate.latents, CONVERGED: many}

    @functools.cached_property
    def offset(self) -> float:
        """PSNR of frames minus PSNR of latents in dB, measured on a run that computes every second step."""

        def measured() -> float:
            study = self.study
            half = tuple(range(0, study.num_steps, 2))
            policy = ScheduleConfig(computed=half, place=OUTPUT)
            latents, full = self._run({}, policy)[:DECODED], self.targets[FULL][:DECODED]
            clips, _ = study.searched[0]
            frames = [[clips.frames(row) for row in rows.split(1)] for rows in (latents, full)]
            above = [float(psnr(*pair).mean()) for pair in zip(*frames)]
            return statistics.fmean(above) - statistics.fmean(error_db(latents, full))

        return self.study.journal.result("PSNR above latents", measured)

    def candidates(self, budget: int) -> list[Candidate]:
        """The plans to try for a number of evaluations.

        These are caches on the published sampler with each forecast and, per kind of solver and of cache on
        top of the best solver, the candidate nearest to each reference.
        """
        samplers = list(self.samplers(budget))
        if self.surrogate is None:
            firsts = {type(changes["scheduler"]): (name, changes) for name, changes in reversed(samplers)}
            return [Candidate(name, NoCacheConfig(), changes, {}) for name, changes in firsts.values()]
        caches = self._cached(budget, {}, self.study.programme, FORECAST_KINDS)
        steps = [self._candidate(name, changes, NoCacheConfig()) for name, changes in samplers]
        on_top = self._on_top(budget, best(steps, CONVERGED)) if steps else []
        return [*caches, *nearest_of_kinds([*steps, *on_top])]

    def samplers(self, budget: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (name, config overrides) of samplers with this number of model evaluations."""
        config = self.study.config
        if getattr(config, "prediction", None) is None:
            return
        extra = self.study.num_steps - config.steps
        for solver in solvers(config.prediction):
            is_published = isinstance(solver, PublishedConfig)
            steps = budget - extra if is_published else budget
            changes = {"scheduler": solver, "num_inference_steps": steps}
            try:
                self.study.sampler(changes)
            except ValueError:  # too few steps for this solver
                continue
            yield self.PUBLISHED if is_published else f"steps of {solver.title}", changes

    def _on_top(self, budget: int, fewer: Candidate) -> list[Candidate]:
        """Prediction caches on top of a solver with more steps than evaluations."""
        changes = {**fewer.config, "num_inference_steps": round(ON_TOP * budget)}
        study, surrogate = self.study, self.surrogate
        if surrogate is None or isinstance(changes["scheduler"], PublishedConfig):
            return []

        def sampler(samples: int = 1) -> Any:
            return study.sampler(changes, samples)

        programme = Programme(surrogate.segments(sampler, surrogate.predictions_of(sampler())))
        return self._cached(budget, changes, programme, ON_TOP_KINDS)

    def _cached(
        self, budget: int, changes: dict[str, Any], programme: Programme, kinds: Iterable[ForecastKind]
    ) -> list[Candidate]:
        """The programme's schedule with each forecast."""
        times = programme.segments.times
        found = {kind: programme.cheapest([budget], kind).get(budget) for kind in kinds}
        on = f" on {changes['scheduler'].title}" if changes else ""
        return [
            self._candidate(f"schedule {kind}{on}", changes, schedule.policy(times, OUTPUT))
            for kind, schedule in found.items()
            if schedule is not None
        ]

    def _candidate(self, name: str, changes: dict[str, Any], policy: CacheConfig) -> Candidate:
        latents = self._run(changes, policy)
        predicted = {
            reference: statistics.fmean(error_db(latents, target)) + self.offset
            for reference, target in self.targets.items()
        }
        return Candidate(name, policy, changes, predicted)

    def _run(self, changes: Mapping[str, Any], policy: CacheConfig) -> torch.Tensor:
        assert self.surrogate is not None
        return self.surrogate.run(self.study.sampler(changes), policy)


def best(candidates: Sequence[Candidate], reference: str) -> Candidate:
    """The candidate with the highest predicted PSNR against a reference."""
    return max(candidates, key=lambda one: one.near(reference))


def nearest_of_kinds(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The best candidate of each kind for each reference, without duplicates."""
    kinds: dict[tuple[Any, ...], list[Candidate]] = {}
    for one in candidates:
        kinds.setdefault(one.kind, []).append(one)
    chosen = [best(some, reference) for some in kinds.values() for reference in (FULL, CONVERGED)]
    return list({id(one): one for one in chosen}.values())


def tried(
    candidates: Sequence[Candidate], measure: Callable[[Candidate], Mapping[str, float]]
) -> list[tuple[Candidate, Mapping[str, float]]]:
    """Measure the candidates that may be best; return each with its PSNR against the references.

    For each reference they are measured in the order of their predictions, until a measurement is at least as
    good as all remaining predictions: at least LEAST_TRIES, at most MOST_TRIES. So a prediction that is too
    optimistic costs a measurement, but not quality. The predictions of other candidates with the same solver
    are then lowered by the same amount. Candidates without a prediction are all measured.
    """
    found: dict[int, tuple[Candidate, Mapping[str, float]]] = {}
    for reference in (FULL, CONVERGED):
        nearest, shortfalls, waiting = -math.inf, Shortfalls(reference), list(candidates)
        for tries in range(len(candidates)):
            one = max(waiting, key=shortfalls.expected)
            expected = shortfalls.expected(one)
            is_enough = tries >= MOST_TRIES or (tries >= LEAST_TRIES and nearest >= expected)
            if is_enough and math.isfinite(expected):
                break
            waiting.remove(one)
            if id(one) not in found:
                found[id(one)] = (one, measure(one))
            psnr = found[id(one)][1].get(reference, -math.inf)
            shortfalls.add(one, psnr)
            nearest = max(nearest, psnr)
    return list(found.values())


class Shortfalls:
    """How far measurements against a reference were below the predictions, for each solver."""

    def __init__(self, reference: str):
        self.reference = reference
        self._of: dict[type, float] = {}

    def expected(self, one: Candidate) -> float:
        """The predicted PSNR, less what the candidates with the same solver fell short of theirs."""
        return one.near(self.reference) - self._of.get(one.kind[0], 0.0)

    def add(self, one: Candidate, psnr: float) -> None:
        """Add a measurement. Caches on the published sampler do not affect each other's predictions."""
        if one.config and math.isfinite(one.near(self.reference)):
            short = one.near(self.reference) - psnr
            self._of[one.kind[0]] = max(self._of.get(one.kind[0], 0.0), short)


class Trials:
    """Runs candidates on the first learning prompts of a study, and measures them on latents.

    above: PSNR of frames minus PSNR of latents in dB; added to the results.
    """

    def __init__(self, study: Study, prompts: int, above: float = 0.0):
        self.study, self.prompts, self.above = study, prompts, above

    def __call__(self, one: Candidate) -> dict[str, float]:
        """The PSNR in dB against each reference, averaged over the prompts."""
        key = f"trial of {self.prompts} {run_key(one.policy, one.config)}"
        found = self.study.journal.result(key, lambda: self._measure(one))
        return {reference: decibel + self.above for reference, decibel in found.items()}

    @functools.cached_property
    def targets(self) -> dict[str, torch.Tensor]:
        """The final latents of each reference run."""
        full = torch.cat([item.latents for item in self.study.traces[: self.prompts]])
        changes = converged(self.study.config)
        if not changes:
            return {FULL: full}
        return {
            FULL: full,
            CONVERGED: self._run({**changes, "num_inference_steps": TRIAL_STEPS}, NoCacheConfig()),
        }

    def _measure(self, one: Candidate) -> dict[str, float]:
        latents = self._run(one.config, one.policy)
        return {name: statistics.fmean(error_db(latents, target)) for name, target in self.targets.items()}

    def _run(self, changes: Mapping[str, Any], policy: CacheConfig) -> torch.Tensor:
        runs = [clip.with_sampler(changes).run(policy).latents for clip in self._clips]
        return torch.cat(runs).cpu()

    @functools.cached_property
    def _clips(self) -> list[Clips]:
        study = self.study
        return [Clips(study.pipeline, study.config, [job]) for job in study.learnt[: self.prompts]]
