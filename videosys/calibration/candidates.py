"""The candidate plans of a calibration (solver, grid and cache), ranked by predictions from recorded runs."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from videosys.cache import CacheConfig, NoCacheConfig, ScheduleConfig
from videosys.cache.base import OUTPUT
from videosys.calibration.journal import run_key
from videosys.calibration.measure import CONVERGED, FULL
from videosys.calibration.runs import error_db
from videosys.calibration.search import FORECAST_KINDS, ForecastKind, Programme
from videosys.calibration.study import Study
from videosys.generation.finite import NotFiniteError
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

    @functools.cached_property
    def key(self) -> str:
        """Equal for candidates that generate the same videos."""
        return run_key(self.policy, self.config)

    @property
    def solver(self) -> type:
        """The class of the solver's settings."""
        return type(self.config.get("scheduler", PublishedConfig()))

    @property
    def is_plain(self) -> bool:
        """Whether every evaluation computes."""
        return isinstance(self.policy, NoCacheConfig)


def solvers(prediction: str) -> list[SchedulerConfig]:
    """The published sampler, then solvers with their grids for a prediction type."""
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
            pairs = zip(latents.split(1), full.split(1))
            above = [float(psnr(clips.frames(one), clips.frames(other)).mean()) for one, other in pairs]
            return statistics.fmean(above) - statistics.fmean(error_db(latents, full))

        return self.study.journal.result("PSNR above latents", measured)

    def candidates(self, budget: int) -> list[Candidate]:
        """The plans to try for a number of evaluations, without duplicates.

        These are caches on the published sampler with each forecast, all samplers, and caches on top of each
        solver on the grid that is predicted to be nearest to the converged run.
        """
        samplers = list(self.samplers(budget))
        if self.surrogate is None:
            return [Candidate(name, NoCacheConfig(), changes, {}) for name, changes in samplers]
        caches = self._cached(budget, {}, self.study.programme, FORECAST_KINDS)
        steps = [self._candidate(name, changes, NoCacheConfig()) for name, changes in samplers]
        on_top = [one for fewer in nearest_of_solvers(steps, CONVERGED) for one in self.on_top(budget, fewer)]
        distinct: dict[str, Candidate] = {}
        for one in (*caches, *steps, *on_top):
            distinct.setdefault(one.key, one)
        return list(distinct.values())

    def samplers(self, budget: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (name, config overrides) of samplers with this number of model evaluations."""
        config = self.study.config
        if getattr(config, "prediction", None) is None:
            return
        published = {"scheduler": PublishedConfig(), "num_inference_steps": config.steps}
        extra = len(self.study.sampler(published).times()) - config.steps  # of PNDM
        for solver in solvers(config.prediction):
            is_published = isinstance(solver, PublishedConfig)
            steps = budget - extra if is_published else budget
            changes = {"scheduler": solver, "num_inference_steps": steps}
            try:
                self.study.sampler(changes)
            except ValueError:  # too few steps for this solver
                continue
            yield self.PUBLISHED if is_published else f"steps of {solver.title}", changes

    def on_top(self, budget: int, fewer: Candidate) -> list[Candidate]:
        """Prediction caches on top of a solver with more steps than evaluations."""
        changes = {**fewer.config, "num_inference_steps": round(ON_TOP * budget)}
        study, surrogate = self.study, self.surrogate
        if surrogate is None or isinstance(changes["scheduler"], PublishedConfig):
            return []

        def sampler(samples: int = 1) -> Any:
            return study.sampler(changes, samples)

        programme = Programme(surrogate.segments(sampler, is_recorded=False))
        return self._cached(budget, changes, programme, ON_TOP_KINDS)

    def _cached(
        self, budget: int, changes: dict[str, Any], programme: Programme, kinds: Iterable[ForecastKind]
    ) -> list[Candidate]:
        """The schedule of dynamic programming with each forecast."""
        times = programme.segments.times
        found = {kind: programme.cheapest([budget], kind).get(budget) for kind in kinds}
        on = f" on {changes['scheduler'].title}" if changes else ""
        return [
            self._candidate(f"schedule {kind}{on}", changes, schedule.policy(times, OUTPUT))
            for kind, schedule in found.items()
            if schedule is not None
        ]

    def _candidate(self, name: str, changes: dict[str, Any], policy: CacheConfig) -> Candidate:
        try:
            latents = self._run(changes, policy)
        except NotFiniteError:
            return Candidate(name, policy, changes, dict.fromkeys(self.targets, -math.inf))
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


def nearest_of_solvers(candidates: Iterable[Candidate], reference: str) -> list[Candidate]:
    """The best candidate of each solver."""
    solvers: dict[type, list[Candidate]] = {}
    for one in candidates:
        solvers.setdefault(one.solver, []).append(one)
    return [best(some, reference) for some in solvers.values()]
