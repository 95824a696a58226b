"""Times several callables in turns, so that other load on the machine affects all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Run = Callable[[], object]


@dataclass(frozen=True)
class Sample:
    """Seconds of one callable per round: CPU time and device time."""

    cpu: tuple[float, ...]
    device: tuple[float, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """The relevant times: of the GPU if there is one, else CPU times."""
        return self.device if torch.cuda.is_available() else self.cpu

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Half the range of the middle half of the rounds, as a share of the median."""
        values = sorted(self.values)
        if len(values) < 4:
            return (values[-1] - values[0]) / 2 / self.seconds
        low, _, high = statistics.quantiles(values, n=4)
        return (high - low) / 2 / self.seconds


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def once(run: Run, calls: int = 1) -> tuple[float, float]:
    """(CPU seconds, device seconds) of one call, averaged over `calls` calls.

    Device seconds are measured between two CUDA events, or by the wall clock on a CPU. Several calls in a row
    hide the launch overhead of short kernels.
    """
    synchronize()
    cpu, stop = time.process_time(), stop_watch()
    for _ in range(calls):
        run()
    seconds = stop()
    return (time.process_time() - cpu) / calls, seconds / calls


def counted(run: Run, calls: int = 1) -> float:
    """The relevant seconds of `once`: of the GPU if there is one, else CPU seconds."""
    return once(run, calls)[torch.cuda.is_available()]


def stop_watch() -> Callable[[], float]:
    """Start a stopwatch: the returned function gives the seconds since the start."""
    if not torch.cuda.is_available():
        begin = time.perf_counter()
        return lambda: time.perf_counter() - begin
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()

    def stop() -> float:
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3

    return stop


@torch.no_grad()
def alternate(runs: Mapping[str, Run], rounds: int) -> dict[str, Sample]:
    """Samples of each callable: one unmeasured call each, then `rounds` calls each, taking turns."""
    for run in runs.values():
        run()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(rounds):
        # Alternate the order, so that no callable always follows the same one.
        names = list(runs) if number % 2 == 0 else list(reversed(runs))
        for name in names:
            times[name].append(once(runs[name]))
    return {name: Sample(*map(tuple, zip(*rows))) for name, rows in times.items()}


def ratio(samples: Mapping[str, Sample], over: str, under: str) -> float:
    """The median over the rounds of the seconds of `over` divided by those of `under`."""
    return statistics.median(a / b for a, b in zip(samples[over].values, samples[under].values))
