"""Full runs as a model that costs nothing: what another sampler, grid or cache would give.

On the recorded path x(t) the surrogate predicts what was recorded, interpolated between the steps. Beside the
path its prediction changes with its input as that of normally distributed data of the same variance would:

    v(x, t) = v(t) + J(t) (x - x(t))

With input a * data + b * noise and variance s, J is b / (a^2 s + b^2) for a model that predicts the noise,
and (a s / (a^2 s + b^2) - 1) / b for one that predicts data minus noise.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch

from videosys.cache import Cache, CacheConfig, NoCacheConfig, start
from videosys.cache.sencache import Sensitivities
from videosys.generation.denoise import Observer, Sampling, denoise, noise_mix
from videosys.parallel import Parallel
from videosys.schedulers.solvers import Prediction

NEIGHBOURS = 4  # recorded steps that an interpolation uses
LEAST_NOISE = 1e-3  # share of noise that J of flow models is divided by at least
UNGUIDED = 1.0


@dataclass(frozen=True)
class Recording:
    """Recorded steps. samples, predictions: [steps, B, C, T, H, W], model inputs and guided predictions.
    latents: [B, C, T, H, W], what the runs ended with.
    """

    samples: torch.Tensor
    predictions: torch.Tensor
    latents: torch.Tensor


class Surrogate:
    """Stands in for the model. sampler: of the recorded runs. prediction: of the model."""

    def __init__(self, path: Recording, sampler: Any, prediction: Prediction):
        self.path, self.noise, self.latents, self.prediction = path, path.samples[0], path.latents, prediction
        self.variance = float(path.latents.double().var())
        self.mixes = [noise_mix(sampler, float(timestep)) for timestep in sampler.timesteps]
        self.timesteps = [float(timestep) for timestep in sampler.timesteps]
        angles = [angle(mix) for mix in self.mixes]
        last = {value: step for step, value in enumerate(angles)}  # PNDM evaluates some timesteps twice
        self.angles = sorted(last)
        steps = [last[value] for value in self.angles]
        self.samples, self.predictions = path.samples[steps], path.predictions[steps]

    def run(
        self, sampler: Any, cache: CacheConfig | None = None, observer: Observer | None = None
    ) -> torch.Tensor:
        """Final latents [B, C, T, H, W] of a run. cache: one that keeps the prediction."""
        times = sampler.times()
        run_cache = start(cache or NoCacheConfig(), times, lambda row: row[None])
        return rollout(partial(self._predict, sampler), sampler, self.noise, run_cache, observer)

    def predictions_of(self, sampler: Any) -> torch.Tensor:
        """The predictions [steps, B, C, T, H, W] of a full run with a sampler."""
        seen: list[torch.Tensor] = []
        self.run(sampler, observer=lambda step, timestep, latents, prediction: seen.append(prediction))
        return torch.stack(seen)

    def gains(self, sampler: Callable[[int], Any]) -> list[float]:
        """How far an error of each step's prediction moves the final latents.

        sampler: returns a new one for a number of samples.
        """
        return impulse_gains(sampler, partial(response, self.prediction, variance=self.variance))

    def sensitivities(self) -> Sensitivities:
        """For each recorded step how far the prediction moves, root mean square, with a move of 1 of its
        input (J), and with one timestep: what it moved to the next step beyond that. The last is as the one
        before it.
        """
        rows: list[tuple[float, float]] = []
        for step, (now, later) in enumerate(pairwise(self.timesteps)):
            own = response(self.prediction, self.mixes[step], variance=self.variance)
            x, v = (seen[step + 1] - seen[step] for seen in (self.path.samples, self.path.predictions))
            moved = float((v - own * x).double().square().mean().sqrt())
            rows.append((round(abs(own), 6), round(moved / abs(later - now), 8) if later != now else 0.0))
        return (*rows, rows[-1])

    def _predict(
        self, sampler: Any, sample: torch.Tensor, timesteps: torch.Tensor, condition: None, cache: Cache
    ) -> torch.Tensor:
        cache.should_compute(no_signal)
        mix = noise_mix(sampler, float(timesteps[0]))
        weights = list(self._weights(angle(mix)))
        x, v = (
            sum(weight * rows[step] for step, weight in weights) for rows in (self.samples, self.predictions)
        )
        return v + response(self.prediction, mix, variance=self.variance) * (sample - x)

    def _weights(self, wanted: float) -> Iterator[tuple[int, float]]:
        """Recorded steps and their weights, by the polynomial through the nearest; the ends stay as they are
        beyond them.
        """
        wanted = min(max(wanted, self.angles[0]), self.angles[-1])
        place = bisect.bisect(self.angles, wanted) - NEIGHBOURS // 2
        first = min(max(place, 0), max(len(self.angles) - NEIGHBOURS, 0))
        near = range(first, min(first + NEIGHBOURS, len(self.angles)))
        for step in near:
            others = (other for other in near if other != step)
            shares = (
                (wanted - self.angles[other]) / (self.angles[step] - self.angles[other]) for other in others
            )
            yield step, math.prod(shares)


def angle(mix: tuple[float, float]) -> float:
    """0 for data, pi / 2 for noise."""
    return math.atan2(mix[1], mix[0])


def response(prediction: Prediction, mix: tuple[float, float], variance: float) -> float:
    """J of the module's text."""
    a, b = mix
    spread = a * a * variance + b * b
    if prediction == "flow":
        return (a * variance / spread - 1) / max(b, LEAST_NOISE)
    return b / spread


def impulse_gains(
    sampler: Callable[[int], Any], response: Callable[[tuple[float, float]], float]
) -> list[float]:
    """The size of the final latents where all is 0 but an error of 1 of one step's prediction, for each step.

    sampler: returns a new one for a number of samples. response: J at a mix of data and noise.
    """

    def ends(errors: torch.Tensor) -> torch.Tensor:
        """Final latents for errors [steps, samples]."""
        one, steps = sampler(errors.shape[1]), iter(errors)

        def model(sample: torch.Tensor, timesteps: torch.Tensor, *unused: Any) -> torch.Tensor:
            mix = noise_mix(one, float(timesteps[0]))
            return response(mix) * sample + next(steps).reshape(-1, 1, 1, 1, 1)

        return rollout(model, one, torch.zeros(errors.shape[1], 1, 1, 1, 1)).flatten()

    errors = torch.eye(len(sampler(1).times()))
    return (ends(errors) - ends(torch.zeros_like(errors))).abs().tolist()  # without the sampler's own noise


def is_deterministic(sampler: Callable[[int], Any]) -> bool:
    """Whether a sampler draws no noise. sampler: returns a new one for a seed."""
    ends = []
    for seed in (0, 1):
        still = torch.zeros(1, 1, 1, 1, 1)
        ends.append(rollout(lambda sample, *unused: torch.zeros_like(sample), sampler(seed), still))
    return torch.equal(*ends)


def rollout(
    model: Callable[..., torch.Tensor],
    sampler: Any,
    noise: torch.Tensor,
    cache: Cache | None = None,
    observer: Observer | None = None,
) -> torch.Tensor:
    """Final latents of the denoise loop with a function in place of the model."""
    sampling = Sampling(UNGUIDED, observer=observer)
    return denoise(model, sampler, noise, None, sampling, cache or Cache(), Parallel())


def no_signal(kind: str) -> torch.Tensor:
    """A policy that decides by the model's tokens cannot be run on recorded predictions."""
    raise ValueError("recorded predictions have no signal to decide by")
