"""A surrogate model made of recorded full runs: predicts the result of another sampler, grid or cache.

On the recorded path x(t) the surrogate returns the recorded prediction, interpolated between steps. Off the
path it is linear in the input, as for normally distributed data with the same spectrum, for each frequency f
over time and space:

    v(x, t) = v(t) + J(t, f) (x - x(t))

With input a * data + b * noise and variance s(f), J is b / (a^2 s + b^2) for a model that predicts the noise,
and (a s / (a^2 s + b^2) - 1) / b for one that predicts data minus noise. s is measured on the final latents,
and divided by the guidance scale, because guidance sharpens the distribution.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch

from videosys.cache import Cache, CacheConfig, NoCacheConfig, start
from videosys.cache.sencache import Sensitivities
from videosys.calibration.collect import SAMPLES, WINDOW
from videosys.calibration.search import Segments
from videosys.calibration.spectrum import between, filtered, levels, variances, weighted_tables
from videosys.generation.denoise import Observer, Sampling, denoise, noise_mix
from videosys.parallel import Parallel
from videosys.schedulers.solvers import Prediction

# Number of recorded steps for an interpolation. For predicted noise, errors near pure noise are amplified in
# the data, which requires a cubic. Flow models have few recorded steps there, between which a cubic
# overshoots.
NEIGHBOURS: dict[Prediction, int] = {"flow": 2, "epsilon": 4}
LEVELS = 12  # number of variances at which gains are computed
Variance = TypeVar("Variance", float, torch.Tensor)
LEAST_NOISE = 1e-3  # lower bound of the noise share in the denominator of J for flow models
UNGUIDED = 1.0


class Steps(Sequence[torch.Tensor]):
    """The steps of several runs: step k is [B, C, T, H, W].

    runs: one tensor [steps, C, T, H, W] per run, such as a memory-mapped file. Steps are joined when they are
    used, because all of them together can need more memory than the model.
    """

    def __init__(self, runs: Sequence[torch.Tensor]):
        self._runs = list(runs)

    def __len__(self) -> int:
        return len(self._runs[0])

    def __getitem__(self, step: Any) -> Any:
        return torch.stack([run[step] for run in self._runs])


@dataclass(frozen=True)
class Recording:
    """Recorded steps. samples, predictions: model inputs and guided predictions [B, C, T, H, W] of each step.
    latents [B, C, T, H, W]: final latents of the runs.
    """

    samples: Sequence[torch.Tensor] | torch.Tensor
    predictions: Sequence[torch.Tensor] | torch.Tensor
    latents: torch.Tensor


class Surrogate:
    """Replaces the model.

    sampler: of the recorded runs. prediction: the model's prediction type. guidance: guidance scale.
    """

    def __init__(self, path: Recording, sampler: Any, prediction: Prediction, guidance: float = UNGUIDED):
        self.path, self.noise, self.latents, self.prediction = path, path.samples[0], path.latents, prediction
        self.spectrum = variances(path.latents) / max(guidance, UNGUIDED)  # [T, H, W // 2 + 1]
        self.mixes = [noise_mix(sampler, float(timestep)) for timestep in sampler.timesteps]
        self.timesteps = [float(timestep) for timestep in sampler.timesteps]
        angles = [angle(mix) for mix in self.mixes]
        last = {value: step for step, value in enumerate(angles)}  # PNDM evaluates some timesteps twice
        self.angles = sorted(last)
        self.steps = [last[value] for value in self.angles]

    def run(
        self, sampler: Any, cache: CacheConfig | None = None, observer: Observer | None = None
    ) -> torch.Tensor:
        """Final latents [B, C, T, H, W] of a run. cache: must keep the prediction (place output)."""
        times = sampler.times()
        run_cache = start(cache or NoCacheConfig(), times, lambda row: row[None])
        return rollout(partial(self._predict, sampler), sampler, self.noise, run_cache, observer)

    def gains(self, sampler: Callable[[int], Any]) -> torch.Tensor:
        """The effect of an error of each step's prediction on the final latents, per frequency:
        [steps, T, H, W // 2 + 1].

        sampler: returns a new one for a number of samples.
        """
        at = levels(self.spectrum, LEVELS)
        rows = [impulse_gains(sampler, partial(response, self.prediction, variance=one)) for one in at]
        return between(self.spectrum, at, torch.tensor(rows, device="cpu"))

    def segments(self, sampler: Callable[[int], Any], is_recorded: bool = True) -> Segments:
        """The costs of the segments of a schedule that keeps predictions.

        sampler: returns a new one for a number of samples. is_recorded: false uses the predictions of a run
        with the sampler instead of the recorded ones. The run is repeated rather than kept in memory.
        """

        def replay(see: Callable[[torch.Tensor], None]) -> None:
            if not is_recorded:
                self.run(sampler(1), observer=lambda step, timestep, latents, prediction: see(prediction))
                return
            for prediction in self.path.predictions:
                see(prediction)

        gains = self.gains(sampler)
        tables = weighted_tables(replay, gains, WINDOW, SAMPLES)
        return Segments(tables, [1.0] * len(gains), sampler(1).times())

    def sensitivities(self) -> Sensitivities:
        """For each recorded step, the RMS change of the prediction per unit change of its input (J, for the
        path's change to the next step), and per unit of time: the remaining change. The last step repeats the
        values of the step before it.
        """
        rows: list[tuple[float, float]] = []
        for step, (now, later) in enumerate(pairwise(self.timesteps)):
            own = self._response(self.mixes[step])
            x, v = (seen[step + 1] - seen[step] for seen in (self.path.samples, self.path.predictions))
            moved_by_input = filtered(x, own)
            size = float(moved_by_input.norm() / x.norm().clamp(min=1e-12))
            moved = float((v - moved_by_input).double().square().mean().sqrt())
            rows.append((round(size, 6), round(moved / abs(later - now), 8) if later != now else 0.0))
        return (*rows, rows[-1])

    def _predict(
        self, sampler: Any, sample: torch.Tensor, timesteps: torch.Tensor, condition: None, cache: Cache
    ) -> torch.Tensor:
        cache.should_compute(no_signal)
        mix = noise_mix(sampler, float(timesteps[0]))
        weights = list(self._weights(angle(mix)))
        x, v = (
            sum(weight * rows[step] for step, weight in weights)
            for rows in (self.path.samples, self.path.predictions)
        )
        return v + filtered(sample - x, self._response(mix))

    def _response(self, mix: tuple[float, float]) -> torch.Tensor:
        return response(self.prediction, mix, self.spectrum)

    def _weights(self, wanted: float) -> Iterator[tuple[int, float]]:
        """Recorded steps and their weights, from the polynomial through the nearest steps; constant beyond
        the ends.
        """
        wanted = min(max(wanted, self.angles[0]), self.angles[-1])
        count = NEIGHBOURS[self.prediction]
        place = bisect.bisect(self.angles, wanted) - count // 2
        first = min(max(place, 0), max(len(self.angles) - count, 0))
        near = range(first, min(first + count, len(self.angles)))
        for step in near:
            others = (other for other in near if other != step)
            shares = (
                (wanted - self.angles[other]) / (self.angles[step] - self.angles[other]) for other in others
            )
            if weight := math.prod(shares):  # all but one are 0 at a recorded step
                yield self.steps[step], weight


def angle(mix: tuple[float, float]) -> float:
    """The angle of a mix of data and noise: 0 for data, pi / 2 for noise."""
    return math.atan2(mix[1], mix[0])


def response(prediction: Prediction, mix: tuple[float, float], variance: Variance) -> Variance:
    """J of the module's docstring, for one variance or a tensor of variances."""
    a, b = mix
    spread = a * a * variance + b * b
    if prediction == "flow":
        return (a * variance / spread - 1) / max(b, LEAST_NOISE)
    return b / spread


def impulse_gains(
    sampler: Callable[[int], Any], response: Callable[[tuple[float, float]], float]
) -> list[float]:
    """For each step, the final latents when an error of 1 in its prediction is the only input.

    Signs matter: the errors of two steps cancel where a multistep solver gives them opposite weights.
    sampler: returns a new one for a number of samples. response: J at a mix of data and noise.
    """

    def ends(errors: torch.Tensor) -> torch.Tensor:
        """Final latents for errors [steps, samples]."""
        one, steps = sampler(errors.shape[1]), iter(errors)

        def model(sample: torch.Tensor, timesteps: torch.Tensor, *unused: Any) -> torch.Tensor:
            mix = noise_mix(one, float(timesteps[0]))
            return response(mix) * sample + next(steps).reshape(-1, 1, 1, 1, 1)

        return rollout(model, one, errors.new_zeros(errors.shape[1], 1, 1, 1, 1)).flatten()

    errors = torch.eye(len(sampler(1).times()), device="cpu")
    return (ends(errors) - ends(torch.zeros_like(errors))).tolist()  # minus the sampler's own noise


def is_deterministic(sampler: Callable[[int], Any]) -> bool:
    """Whether a sampler draws no noise. sampler: returns a new one for a seed."""
    ends = []
    for seed in (0, 1):
        still = torch.zeros(1, 1, 1, 1, 1, device="cpu")
        ends.append(rollout(lambda sample, *unused: torch.zeros_like(sample), sampler(seed), still))
    return torch.equal(*ends)


def rollout(
    model: Callable[..., torch.Tensor],
    sampler: Any,
    noise: torch.Tensor,
    cache: Cache | None = None,
    observer: Observer | None = None,
) -> torch.Tensor:
    """Final latents of the denoise loop with a function instead of the model."""
    sampling = Sampling(UNGUIDED, observer=observer)
    return denoise(model, sampler, noise, None, sampling, cache or Cache(), Parallel())


def no_signal(kind: str) -> torch.Tensor:
    """Raises: a policy that uses a signal of the model cannot run on recorded predictions."""
    raise ValueError("recorded predictions provide no signal for the policy")
