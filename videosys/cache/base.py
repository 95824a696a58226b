"""The interface of caches. A cache is for one generation and holds all state that changes during it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import reduce
from typing import Any, Literal

import torch

from videosys.cache.device import AUTO, to_cache_device
from videosys.cache.forecast import HOLD, Forecast

Signal = Callable[[str], torch.Tensor]
Compute = Callable[[], torch.Tensor]
Branch = Callable[[str, Compute], torch.Tensor]
Place = Literal["stack", "output"]
STACK: Place = "stack"
OUTPUT: Place = "output"
GatherRows = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class StepRecord:
    """The record of a cache for one model evaluation.

    step: index, from 0. timestep: the model's input. computed: whether the blocks ran.
    distance: relative L1 change of the signal. rescaled: its value after the polynomial. accumulated: the sum
    that was compared with the threshold. All three are None if nothing was compared, as in the first and last
    step. reused: number of reused branches (PAB). bytes_held: bytes that this rank's cache kept after the
    step; ignored by ==, because it is not part of the decision.
    """

    step: int
    timestep: float
    distance: float | None
    rescaled: float | None
    accumulated: float | None
    computed: bool
    reused: int = 0
    bytes_held: int = field(default=0, compare=False)


def compute_branch(kind: str, compute: Compute) -> torch.Tensor:
    """Return `compute()`. The branch function of caches that do not reuse branches."""
    return compute()


class Cache:
    """The interface of all caches. This cache computes every step and does not change the result.

    The denoising loop calls `begin_step`, `observe_latents` and `predict`. The model's forward calls
    `should_compute`, then `store` or `reuse`, and `layer` for each block that runs.
    """

    @property
    def steps(self) -> list[StepRecord]:
        """One record per model evaluation so far."""
        return []

    def begin_step(self, step: int, timestep: float) -> None:
        """Announce the next model evaluation. step: index, from 0."""

    def observe_latents(self, latents: torch.Tensor, mix: tuple[float, float]) -> None:
        """Pass the model's input of this step to the cache, before `predict`.

        latents: [B, C, T, H, W], one row per video, equal on all ranks. mix: (a, b) in
        latents = a * data + b * noise.
        """

    def should_compute(self, signal: Signal) -> bool:
        """Whether the blocks run in this step.

        signal: computes the tensor [B, tokens of this rank, C] for the decision; kind: modulated or timestep.
        """
        return True

    def store(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Return `after` itself. before, after: this rank's tokens [B, ..., C] around the blocks."""
        return after

    def reuse(self, x: torch.Tensor) -> torch.Tensor:
        """Return the tokens after the blocks, approximated from the input `x`. RuntimeError if nothing is
        stored.
        """
        raise RuntimeError("nothing was stored: a cache must compute before it reuses")

    def predict(self, evaluate: Compute) -> torch.Tensor:
        """Return the model's prediction for this step. evaluate: calls the model's forward."""
        return evaluate()

    def layer(self, stack: str, index: int) -> Branch:
        """Return the function `branch(kind, compute)` that a block calls for each residual branch.

        stack: spatial, temporal or joint. index: of the block in its stack. kind: attention, cross or mlp.
        """
        return compute_branch


NO_CACHE = Cache()


class RecordedCache(Cache):
    """A cache that computes every step and records it. Base of all caches that keep state."""

    def __init__(self) -> None:
        self._records: list[StepRecord] = []
        self.step = -1
        self.timestep = 0.0

    @property
    def steps(self) -> list[StepRecord]:
        self._finish_record()
        return list(self._records)

    @property
    def bytes_held(self) -> int:
        """Bytes of the tensors that are currently kept."""
        return sum(tensor.nbytes for tensor in self.held())

    def begin_step(self, step: int, timestep: float) -> None:
        self._finish_record()
        self.step, self.timestep = step, timestep

    def _finish_record(self) -> None:
        """Add the bytes kept after the step to the last record."""
        if self._records:
            self._records[-1] = replace(self._records[-1], bytes_held=self.bytes_held)

    def should_compute(self, signal: Signal) -> bool:
        self.record(computed=True)
        return True

    def record(
        self,
        *,
        computed: bool,
        distance: float | None = None,
        rescaled: float | None = None,
        accumulated: float | None = None,
    ) -> None:
        """Add the record of this step; arguments as in `StepRecord`."""
        decision = (self.step, self.timestep, distance, rescaled, accumulated, computed)
        self._records.append(StepRecord(*decision))

    def held(self) -> Iterable[torch.Tensor]:
        """The tensors that are kept between steps."""
        return ()


def identity_of(request_id: int, config: Any) -> tuple[float, float]:
    """The first two entries of a rank's row: the request id and a digest of the policy's settings.

    If ranks differ in one of them, they raise an error instead of making different decisions.
    """
    return float(request_id), float(zlib.crc32(repr(astuple(config)).encode()))


def forced_steps(count: int) -> frozenset[int]:
    """The steps that every policy computes: the first and the last of `count`."""
    return frozenset((0, count - 1))


class ResidualCache(RecordedCache):
    """Keeps the residuals of computed steps and forecasts the residual in skipped steps.

    times: the sampler's time at each model evaluation. forecast: provides the weights of the kept tensors.
    device: where they are kept, see `to_cache_device`. place: what is kept: "stack" is the residual of all
    blocks (output minus input), before the model's head; "output" is the model's prediction, complete on each
    device.
    """

    def __init__(
        self, times: Sequence[float], forecast: Forecast = HOLD, device: str = AUTO, place: Place = STACK
    ):
        super().__init__()
        self.times, self.forecast, self.device, self.place = tuple(times), forecast, device, place
        self.history: tuple[tuple[int, torch.Tensor], ...] = ()  # steps and kept tensors, newest first
        self.compute_device = torch.device("cpu")  # device of the tensors before they move to `device`

    @property
    def residual(self) -> torch.Tensor | None:
        """The tensor kept from the last computed step; None if there is none yet."""
        return self.history[0][1] if self.history else None

    def held(self) -> Iterable[torch.Tensor]:
        return [residual for _, residual in self.history]

    @property
    def is_forced(self) -> bool:
        """Whether this is the first or last step, by index, because rounded timesteps can miss them."""
        return self.step in forced_steps(len(self.times))

    def store(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        if self.place == STACK:
            self._keep(after - before)
        return after

    def _keep(self, tensor: torch.Tensor) -> None:
        self.compute_device = tensor.device
        self.history = self.history[: self.forecast.num_residuals - 1]  # frees the oldest first
        self.history = ((self.step, to_cache_device(tensor, self.device)), *self.history)

    def reuse(self, x: torch.Tensor) -> torch.Tensor:
        if self.place == OUTPUT:
            return x  # `predict` replaces the output of the head
        for weight, residual in self._weighted(x.shape):
            x = torch.add(x, residual.to(x.device), alpha=weight)
        return x

    def predict(self, evaluate: Compute) -> torch.Tensor:
        if self.place == STACK:
            return evaluate()
        output = evaluate()  # in a skipped step, only the decision runs
        if self._records[-1].computed:
            self._keep(output)
            return output
        return self._forecast_output()

    def _forecast_output(self) -> torch.Tensor:
        products = [tensor.to(self.compute_device) * weight for weight, tensor in self._weighted()]
        return reduce(torch.add, products)

    def _weighted(self, shape: torch.Size | None = None) -> Iterable[tuple[float, torch.Tensor]]:
        """The forecast's weights and the kept tensors, newest first. RuntimeError for another `shape`."""
        if not self.history:
            raise RuntimeError("nothing was stored: a cache must compute before it reuses")
        steps, kept = zip(*self.history)
        if shape is not None and kept[0].shape != shape:
            raise RuntimeError(
                f"the residual is {tuple(kept[0].shape)}, the tokens are {tuple(shape)}: "
                "a cache serves one generation; start another with videosys.cache.start"
            )
        return zip(self.forecast.weights(self.step, steps, self.times), kept)


class FixedCache(ResidualCache):
    """A residual cache with computed steps known in advance. It needs no signal and no communication."""

    def __init__(
        self,
        computed: frozenset[int],
        times: Sequence[float],
        forecast: Forecast = HOLD,
        device: str = AUTO,
        place: Place = STACK,
    ):
        super().__init__(times, forecast, device, place)
        self.computed = computed

    @property
    def computes(self) -> bool:
        """Whether this step computes."""
        return self.is_forced or self.step in self.computed

    def should_compute(self, signal: Signal) -> bool:
        self.record(computed=self.computes)
        return self.computes

    def predict(self, evaluate: Compute) -> torch.Tensor:
        if self.place == STACK or self.computes:
            return super().predict(evaluate)
        self.record(computed=False)  # nothing of the model runs
        return self._forecast_output()
