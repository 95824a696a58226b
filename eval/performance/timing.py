"""Times of several callables that take turns, so that what else the machine does hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Run = Callable[[], object]


@dataclass(frozen=True)
class Sample:
    """Seconds of one callable, one entry per round: of the processor, and by the clock."""

    cpu: tuple[float, ...]
    wall: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """The median: of processor seconds, or of the clock's where a GPU does the work."""
        return statistics.median(self.wall if torch.cuda.is_available() else self.cpu)

    @property
    def spread(self) -> float:
        """Half the range of the middle half of the rounds, as a share of the median."""
        values = sorted(self.wall if torch.cuda.is_available() else self.cpu)
        if len(values) < 4:
            return (values[-1] - values[0]) / 2 / self.seconds
        low, _, high = statistics.quantiles(values, n=4)
        return (high - low) / 2 / self.seconds


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def once(run: Run) -> tuple[float, float]:
    """Processor seconds and clock seconds of one call."""
    synchronize()
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    synchronize()
    return time.process_time() - cpu, time.perf_counter() - wall


@torch.no_grad()
def alternate(runs: Mapping[str, Run], rounds: int) -> dict[str, Sample]:
    """Samples of each callable: one unmeasured call each, then `rounds` calls each, taking turns."""
    for run in runs.values():
        run()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(rounds):
        # Forwards and backwards in turn: no callable always follows the same one.
        names = list(runs) if number % 2 == 0 else list(reversed(runs))
        for name in names:
            times[name].append(once(runs[name]))
    return {name: Sample(*map(tuple, zip(*rows))) for name, rows in times.items()}


def ratio(samples: Mapping[str, Sample], over: str, under: str) -> float:
    """The median over the rounds of the seconds of `over` divided by those of `under`."""
    is_gpu = torch.cuda.is_available()
    pairs = zip(
        *((samples[name].wall if is_gpu else samples[name].cpu) for name in (over, under)),
    )
    return statistics.median(a / b for a, b in pairs)
