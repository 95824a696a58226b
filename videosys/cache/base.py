"""What every cache answers to. A cache lives for one generation and holds all that changes during it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch

from videosys.cache.device import AUTO, to_cache_device
from videosys.cache.forecast import HELD, HOLD, Forecast

Signal = Callable[[str], torch.Tensor]
Compute = Callable[[], torch.Tensor]
Branch = Callable[[str, Compute], torch.Tensor]
GatherRows = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class StepRecord:
    """What happened in one model evaluation.

    distance: relative L1 change of the signal; rescaled: the polynomial of it; accumulated: the sum that was
    compared with the threshold. All three are None where nothing was compared: in the first and last step,
    and without a cache. reused: branches of blocks that used what they had given before (PAB).
    bytes_held: what the cache of this rank kept when the step was done; no part of the decision, and so of
    no comparison.
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
    """The branch of a block, computed: what blocks get from every cache that keeps no single branches."""
    return compute()


class Cache:
    """The interface, and the cache that caches nothing: with it a forward keeps every bit."""

    @property
    def steps(self) -> list[StepRecord]:
        """One record per model evaluation so far."""
        return []

    def begin_step(self, step: int, timestep: float) -> None:
        """Called by the denoise loop before each model evaluation."""

    def should_compute(self, signal: Signal) -> bool:
        """Whether the blocks run in this step; `signal(kind)` gives the tensor that is watched."""
        return True

    def store(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """`after`, the output of the blocks, itself; never before + (after - before)."""
        return after

    def reuse(self, x: torch.Tensor) -> torch.Tensor:
        """`x` as if the blocks had run; an error where nothing was stored."""
        raise RuntimeError("nothing was stored: a cache must compute before it reuses")

    def layer(self, stack: str, index: int) -> Branch:
        """What runs the branches of block `index` of a `stack` (spatial, temporal, joint)."""
        return compute_branch


NO_CACHE = Cache()


class RecordedCache(Cache):
    """A cache that computes every step and writes it down; the base of those that do more."""

    def __init__(self) -> None:
        self._records: list[StepRecord] = []
        self.step = -1
        self.timestep = 0.0

    @property
    def steps(self) -> list[StepRecord]:
        self._close()
        return list(self._records)

    @property
    def bytes_held(self) -> int:
        """What is kept now."""
        return sum(tensor.nbytes for tensor in self.held())

    def begin_step(self, step: int, timestep: float) -> None:
        self._close()
        self.step, self.timestep = step, timestep

    def _close(self) -> None:
        """Writes down what the last step has left."""
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
        decision = (self.step, self.timestep, distance, rescaled, accumulated, computed)
        self._records.append(StepRecord(*decision))

    def held(self) -> Iterable[torch.Tensor]:
        """The tensors that are kept from one step to another."""
        return ()


class ResidualCache(RecordedCache):
    """Keeps what all blocks together added to their input, and adds its forecast in a step that is skipped.

    times: the sampler's own time at each step, one per model evaluation. device: where residuals are kept.
    """

    def __init__(self, times: Sequence[float], forecast: Forecast = HOLD, device: str = AUTO):
        super().__init__()
        self.times, self.forecast, self.device = tuple(times), forecast, device
        self.kept: tuple[tuple[int, torch.Tensor], ...] = ()  # steps and their residuals, newest first

    @property
    def residual(self) -> torch.Tensor | None:
        """What the blocks added in the last computed step."""
        return self.kept[0][1] if self.kept else None

    def held(self) -> Iterable[torch.Tensor]:
        return [residual for _, residual in self.kept]

    @property
    def is_forced(self) -> bool:
        """First and last step always compute, by step index: rounded timesteps would not be recognised."""
        return self.step in (0, len(self.times) - 1)

    def store(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        self.kept = self.kept[: self.forecast.num_residuals - 1]  # the oldest goes before the newest comes
        self.kept = ((self.step, to_cache_device(after - before, self.device)), *self.kept)
        return after

    def reuse(self, x: torch.Tensor) -> torch.Tensor:
        steps, residuals = tuple(zip(*self.kept)) or ((), ())
        if not residuals:
            return super().reuse(x)
        if residuals[0].shape != x.shape:
            raise RuntimeError(
                f"the residual is {tuple(residuals[0].shape)}, the tokens are {tuple(x.shape)}: "
                "a cache serves one generation; start another with videosys.cache.start"
            )
        weights = self.forecast.weights(self.step, steps, self.times)
        if weights == HELD:
            return x + residuals[0].to(x.device)
        for weight, residual in zip(weights, residuals):
            x = torch.add(x, residual.to(x.device), alpha=weight)
        return x


class FixedCache(ResidualCache):
    """A residual cache whose computed steps are known in advance: no signal, no exchange."""

    def __init__(
        self, computed: frozenset[int], times: Sequence[float], forecast: Forecast = HOLD, device: str = AUTO
    ):
        super().__init__(times, forecast, device)
        self.computed = computed

    def should_compute(self, signal: Signal) -> bool:
        computed = self.is_forced or self.step in self.computed
        self.record(computed=computed)
        return computed
