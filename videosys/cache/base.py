"""What every cache answers to. A cache lives for one generation and holds all that changes during it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Signal = Callable[[str], torch.Tensor]
Compute = Callable[[], torch.Tensor]
Branch = Callable[[str, Compute], torch.Tensor]
GatherRows = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class StepRecord:
    """What happened in one model evaluation.

    distance: relative L1 change of the signal; rescaled: the polynomial of it; accumulated: the sum that was
    compared with the threshold. All three are None where nothing was compared: in the first and last step,
    and without a cache.
    """

    step: int
    timestep: float
    distance: float | None
    rescaled: float | None
    accumulated: float | None
    computed: bool


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
        return list(self._records)

    def begin_step(self, step: int, timestep: float) -> None:
        self.step, self.timestep = step, timestep

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
        record = StepRecord(self.step, self.timestep, distance, rescaled, accumulated, computed)
        self._records.append(record)


class ResidualCache(RecordedCache):
    """Keeps what all blocks together added to their input, and adds it again in a step that is skipped.

    times: the sampler's own time at each step, one per model evaluation.
    """

    def __init__(self, times: Sequence[float]):
        super().__init__()
        self.times = tuple(times)
        self.residual: torch.Tensor | None = None

    @property
    def is_forced(self) -> bool:
        """First and last step always compute, by step index: rounded timesteps would not be recognised."""
        return self.step in (0, len(self.times) - 1)

    def store(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        self.residual = after - before
        return after

    def reuse(self, x: torch.Tensor) -> torch.Tensor:
        if self.residual is None:
            return super().reuse(x)
        if self.residual.shape != x.shape:
            raise RuntimeError(
                f"the residual is {tuple(self.residual.shape)}, the tokens are {tuple(x.shape)}: "
                "a cache serves one generation; start another with videosys.cache.start"
            )
        return x + self.residual
