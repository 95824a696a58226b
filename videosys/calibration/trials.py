"""Which candidates are measured, and short measurements on calibration prompts."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from videosys.cache import CacheConfig, NoCacheConfig
from videosys.calibration.candidates import Candidate, Planner, converged
from videosys.calibration.measure import CONVERGED, FULL
from videosys.calibration.runs import Clips
from videosys.calibration.study import Study
from videosys.generation.finite import NotFiniteError
from videosys.metrics import psnr
from videosys.utils.logging import get_logger

TRIAL_STEPS = 60  # of the converged run that trials are compared with; the comparison uses more
TRIED = 1  # number of prompts for trials if none is held out
LEAST_TRIES = 2  # candidates measured per number of evaluations and reference
FAR = 3.0  # dB between prediction and measurement above which a prediction has failed
_LOG = get_logger("calibration")
Figures = Mapping[str, float]  # PSNR in dB by reference
Measure = Callable[[Candidate], Figures]
CachesOn = Callable[[Candidate], Sequence[Candidate]]


def least_tries(share: float) -> int:
    """The minimum number of candidates to measure per reference. share: of the published evaluations.

    Predictions are least reliable with few evaluations, where a run also costs the least.
    """
    return max(LEAST_TRIES, round(1 / share))


def most_tries(share: float) -> int:
    """The maximum number of candidates with a prediction to measure per reference."""
    return 2 * least_tries(share)


def tried(
    candidates: Sequence[Candidate], measure: Measure, share: float, on_top: CachesOn = lambda one: ()
) -> list[tuple[Candidate, Figures]]:
    """Measure the candidates that may be best; return each with its PSNR against the references.

    For each reference they are measured in the order of a `Ranking`, until a measurement is at least as good
    as the expectation of the others: `least_tries` to `most_tries` of them. So a prediction that is too
    optimistic costs a measurement, but not quality. Candidates without a prediction are all measured.
    Before a cache on a sampler, the sampler itself is measured, because it is the simpler plan.

    on_top: returns the caches on top of a sampler. If the sampler is measured to be among the best, those
    that are not among the candidates are measured in the same way afterwards.
    """
    found: dict[str, tuple[Candidate, Figures]] = {}
    for reference in (FULL, CONVERGED):
        ranking = Ranking(candidates, reference)
        for one, figures in found.values():
            ranking.add_earlier(one, figures)
        measure_in_order(ranking, measure, found, share)
        ranking.continue_with([cache for sampler in ranking.best_samplers() for cache in on_top(sampler)])
        measure_in_order(ranking, measure, found, share)
    return list(found.values())


def measured_plans(
    planner: Planner, budget: int, measure: Measure, more: Sequence[Candidate] = ()
) -> list[tuple[Candidate, Figures]]:
    """Measure the candidates of a number of evaluations that may be best, and the caches on top of them.

    more: candidates besides those of the planner.
    """
    candidates, share = [*planner.candidates(budget), *more], budget / planner.study.num_steps
    return tried(candidates, measure, share, functools.partial(planner.on_top, budget))


def measure_in_order(
    ranking: Ranking, measure: Measure, found: dict[str, tuple[Candidate, Figures]], share: float
) -> None:
    """Measure candidates of a ranking until it has enough, and add them to those found."""
    while (one := ranking.next()) is not None and not ranking.is_enough(one, share):
        for candidate in (*ranking.beneath(one), one):
            found[candidate.key] = (candidate, measure_or_nothing(measure, candidate))
            ranking.add(*found[candidate.key], is_try=candidate is one)


def measure_or_nothing(measure: Measure, one: Candidate) -> Figures:
    """The measurement; empty, with a warning, if the candidate's latents are not finite."""
    try:
        return measure(one)
    except NotFiniteError as error:
        _LOG.warning("%s is not used: %s", one.name, error)
        return {}


class Ranking:
    """The order of candidates for a reference, from their predictions and from the measurements so far.

    Predictions of one solver share their error. The predictions of a solver's candidates are therefore
    lowered by the largest shortfall measured for the solver. If that exceeds FAR, predictions do not rank the
    solver's grids either; the grids next to its best measured one are then measured first. All predictions
    are raised by the largest excess of a measurement over its prediction, so that no candidate is omitted
    because predictions are too low.
    """

    def __init__(self, candidates: Sequence[Candidate], reference: str):
        self.reference, self.candidates, self.waiting = reference, list(candidates), list(candidates)
        self.lines: dict[type, list[Candidate]] = {}  # the samplers of each solver, in the order of grids
        for one in sorted((one for one in candidates if one.is_plain), key=shift_of):
            self.lines.setdefault(one.solver, []).append(one)
        self.measured: dict[str, float] = {}
        self.shortfalls: dict[type, float] = {}
        self.earlier: list[float] = []  # predictions of candidates measured for another reference
        self.excess, self.tries = 0.0, 0

    @property
    def nearest(self) -> float:
        """The best measurement."""
        return max(self.measured.values(), default=-math.inf)

    def continue_with(self, candidates: Sequence[Candidate]) -> None:
        """Continue with the new ones of these candidates instead of the waiting ones."""
        known = {one.key for one in self.candidates}
        self.waiting, self.tries = [one for one in candidates if one.key not in known], 0
        self.candidates += self.waiting

    def next(self) -> Candidate | None:
        """The candidate to measure next; None after the last."""
        return max(self.waiting, key=self._rank, default=None)

    def is_enough(self, one: Candidate, share: float) -> bool:
        """Whether to stop before the next candidate."""
        expected = self.expected(one)
        tries = self.tries + sum(other >= one.near(self.reference) for other in self.earlier)
        if expected == math.inf or tries < least_tries(share):
            return False
        is_expected_worse = self.nearest >= expected and not self._is_beside_best(one)
        return is_expected_worse or tries >= most_tries(share)

    def beneath(self, one: Candidate) -> list[Candidate]:
        """The waiting sampler under a cache: the same solver and grid with as many steps as evaluations."""
        if one.is_plain or not one.config:
            return []
        scheduler = one.config["scheduler"]
        return [
            other for other in self.waiting if other.is_plain and other.config.get("scheduler") == scheduler
        ]

    def add(self, one: Candidate, figures: Figures, is_try: bool = True) -> None:
        """Add a measurement. is_try: whether it counts as one of the tries."""
        self.tries += is_try
        self._add(one, figures)

    def add_earlier(self, one: Candidate, figures: Figures) -> None:
        """Add a measurement for another reference. It counts as a try at the rank of its prediction."""
        self.earlier.append(one.near(self.reference))
        self._add(one, figures)

    def _add(self, one: Candidate, figures: Figures) -> None:
        """Caches on the published sampler do not affect each other's predictions."""
        self.waiting = [other for other in self.waiting if other.key != one.key]
        self.measured[one.key] = figures.get(self.reference, -math.inf)
        short = one.near(self.reference) - self.measured[one.key]
        if math.isfinite(one.near(self.reference)):
            self.excess = max(self.excess, -short)
            if one.config:
                self.shortfalls[one.solver] = max(self.shortfalls.get(one.solver, 0.0), short)

    def expected(self, one: Candidate) -> float:
        """The prediction, corrected by measurements of others; infinite without a prediction."""
        return one.near(self.reference) + self.excess - self.shortfalls.get(one.solver, 0.0)

    def best_samplers(self) -> list[Candidate]:
        """The measured samplers other than the published one within FAR of the best measurement."""
        samplers = (one for one in self.candidates if one.config and one.is_plain)
        return [one for one in samplers if self.measured.get(one.key, -math.inf) >= self.nearest - FAR]

    def _rank(self, one: Candidate) -> tuple[bool, float]:
        return self._is_beside_best(one), self.expected(one)

    def _is_beside_best(self, one: Candidate) -> bool:
        """Whether a sampler's grid is next to the best measured one of a solver whose predictions failed."""
        line = self.lines.get(one.solver, [])
        places = [place for place, other in enumerate(line) if other.key in self.measured]
        if not places or one.key in self.measured or self.shortfalls.get(one.solver, 0.0) <= FAR:
            return False
        best = max(places, key=lambda place: self.measured[line[place].key])
        return any(one is other for other in line[max(best - 1, 0) : best + 2])


def shift_of(one: Candidate) -> float:
    """The time shift of a candidate's grid; 0 if it has none."""
    return getattr(one.config.get("scheduler"), "shift", None) or 0.0


class Trials:
    """Runs candidates on the first calibration prompts of a study, and measures their frames."""

    def __init__(self, study: Study, prompts: int, converged_steps: int = TRIAL_STEPS):
        self.study, self.prompts, self.converged_steps = study, prompts, converged_steps

    def __call__(self, one: Candidate) -> dict[str, float]:
        """The PSNR of the frames in dB against each reference, averaged over the prompts."""
        key = f"frames of {self.prompts}, converged in {self.converged_steps}: {one.key}"
        return self.study.journal.result(key, lambda: self._measure(one))

    @functools.cached_property
    def targets(self) -> dict[str, list[torch.Tensor]]:
        """The frames [T, H, W, 3] of each reference run, one clip per prompt.

        ValueError instead of `NotFiniteError` if they are not finite: then no candidate can be measured.
        """
        try:
            return dict(self._references())
        except NotFiniteError as error:
            raise ValueError(f"a reference run failed: {error}") from error

    def _references(self) -> Iterator[tuple[str, list[torch.Tensor]]]:
        traces = self.study.traces[: self.prompts]
        yield FULL, [clip.frames(item.latents) for clip, item in zip(self._clips, traces)]
        if changes := converged(self.study.config):
            steps = {"num_inference_steps": self.converged_steps}
            yield CONVERGED, self._run({**changes, **steps}, NoCacheConfig())

    def _measure(self, one: Candidate) -> dict[str, float]:
        targets, frames = self.targets, self._run(one.config, one.policy)
        return {
            name: statistics.fmean(float(psnr(*pair).mean()) for pair in zip(frames, target))
            for name, target in targets.items()
        }

    def _run(self, changes: Mapping[str, Any], policy: CacheConfig) -> list[torch.Tensor]:
        return [clip.frames(clip.with_sampler(changes).run(policy).latents) for clip in self._clips]

    @functools.cached_property
    def _clips(self) -> list[Clips]:
        study = self.study
        return [Clips(study.pipeline, study.config, [job]) for job in study.learnt[: self.prompts]]
