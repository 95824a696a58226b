"""TeaCache (arXiv 2411.19108): skip the blocks while the modulated input has changed little."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any, Literal

import torch

from videosys.cache.base import Cache, GatherRows, ResidualCache, Signal
from videosys.cache.config import CacheConfig, Calibrated, Goal
from videosys.cache.device import to_cache_device
from videosys.cache.forecast import FORECASTS, HOLD, Forecast
from videosys.cache.scope import Scope

_LOG = logging.getLogger("videosys.cache")
IDENTITY = (1.0, 0.0)
MODULATED = "modulated"  # the signal that published and calibrated coefficients are of


@dataclass(frozen=True)
class TeaCacheConfig(Goal):
    """threshold: the sum of rescaled distances at which the blocks run again; 0 computes every step.

    coefficients: the rescaling polynomial, highest power first. None takes those published for the model,
        which are of the modulated input, and none for another signal; [1, 0] is the paper's variant without
        rescaling.
    forecast: what a skipped step takes for its residual: hold (the published rule) or linear.
    signal: what is watched: the modulated input of the first block, or the timestep embedding (ablation).
    max_consecutive_skips: an upper bound on skips in a row; None for no bound.
    floor: a polynomial that falls below zero adds nothing; false subtracts, as the published ones do.
    """

    threshold: float = 0.1
    coefficients: tuple[float, ...] | None = None
    forecast: Forecast = field(default=HOLD, metadata={"registry": FORECASTS})
    signal: Literal["modulated", "timestep"] = "modulated"
    max_consecutive_skips: int | None = None
    floor: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.threshold >= 0:
            raise ValueError(f"cache.threshold is {self.threshold}; it must be 0 or more")
        if self.coefficients is not None and not (
            self.coefficients and all(map(math.isfinite, self.coefficients))
        ):
            raise ValueError(
                f"cache.coefficients are {self.coefficients}; one or more finite numbers are needed"
            )
        if self.max_consecutive_skips is not None and self.max_consecutive_skips < 1:
            raise ValueError(
                f"cache.max_consecutive_skips is {self.max_consecutive_skips}; it must be 1 or more"
            )

    def start(self, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0) -> Cache:
        return TeaCache(self, times, gather_rows, request_id)

    def resolved(self, run: Callable[[], Scope], calibrated: Calibrated) -> CacheConfig:
        """The same with the coefficients of a calibration that is named; they never count below zero."""
        if not self.calibration or self.coefficients is not None:
            return self
        coefficients, path = calibrated("coefficients")
        if self.signal != MODULATED:
            message = "%s has coefficients of the %s input; those of the %s are [1, 0]"
            _LOG.warning(message, path, MODULATED, self.signal)
        return replace(self.with_coefficients(coefficients), floor=True)

    def adapted(self, given: Mapping[str, Any]) -> TeaCacheConfig:
        """These settings as the base of a config that gives others: coefficients are of one signal."""
        signal = given.get("signal", self.signal)
        return self if signal == self.signal else replace(self, coefficients=None)

    def with_coefficients(self, coefficients: Sequence[float]) -> TeaCacheConfig:
        """The same with the coefficients of the modulated input, where none are given; a signal for which
        they were not made is compared as it is.
        """
        if self.coefficients is not None:
            return self
        own = tuple(coefficients) if self.signal == MODULATED else IDENTITY
        return replace(self, coefficients=own)


class TeaCache(ResidualCache):
    """Adds up the rescaled relative L1 changes of the signal and computes when the threshold is reached.

    gather_rows: turns one small row of this rank into the rows of all ranks that work on the same video, so
        that all of them add the same numbers in the same order and take the same branch.
    request_id: tells one generation from another across ranks.
    """

    def __init__(
        self, config: TeaCacheConfig, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0
    ):
        super().__init__(times, config.forecast, config.device)
        self.config = config
        self.coefficients = config.coefficients or IDENTITY
        self.gather_rows = gather_rows
        self.identity = (float(request_id), float(zlib.crc32(repr(astuple(config)).encode())))
        self.previous: torch.Tensor | None = None
        self.accumulated = 0.0
        self.skips_in_a_row = 0

    def held(self) -> Iterable[torch.Tensor]:
        return [*super().held(), *([] if self.previous is None else [self.previous])]

    def should_compute(self, signal: Signal) -> bool:
        current = signal(self.config.signal)
        previous = None if self.previous is None else self.previous.to(current.device)
        self.previous = to_cache_device(current, self.device)
        computed = self.is_forced or previous is None or self._accumulate(current, previous)
        if self.is_forced or previous is None:
            self.record(computed=True)
        self.skips_in_a_row = 0 if computed else self.skips_in_a_row + 1
        self.accumulated = 0.0 if computed else self.accumulated
        return computed

    def _accumulate(self, current: torch.Tensor, previous: torch.Tensor) -> bool:
        """Whether the sum, this step's change included, asks for a computed step; not-a-number does."""
        distance = self._distance(current, previous)
        rescaled = polynomial(self.coefficients, distance, self.config.floor)
        self.accumulated += rescaled
        enough = self.skips_in_a_row == self.config.max_consecutive_skips
        computed = enough or not self.accumulated < self.config.threshold
        self.record(computed=computed, distance=distance, rescaled=rescaled, accumulated=self.accumulated)
        return computed

    def _distance(self, current: torch.Tensor, previous: torch.Tensor) -> float:
        if current.shape != previous.shape:
            raise RuntimeError(
                f"the signal was {tuple(previous.shape)} and is {tuple(current.shape)}: "
                "a cache serves one generation; start another with videosys.cache.start"
            )
        row = (*self.identity, float(self.step), self.accumulated, *l1_sums(current, previous))
        return relative_l1(self.gather_rows(torch.tensor(row, dtype=torch.float64)))


def polynomial(coefficients: Sequence[float], x: float, floor: bool = False) -> float:
    """The polynomial at x, highest power first (Horner); with `floor` 0 where it is below."""
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return max(value, 0.0) if floor else value  # not-a-number stays: it is what asks for a computed step


def l1_sums(current: torch.Tensor, previous: torch.Tensor) -> tuple[float, float]:
    """sum|current - previous| and sum|previous|, summed in float64 whatever the dtype of the signal."""
    difference = (current.float() - previous.float()).abs().sum(dtype=torch.float64)
    size = previous.float().abs().sum(dtype=torch.float64)
    numerator, denominator = torch.stack((difference, size)).tolist()  # one transfer to the host
    return numerator, denominator


def relative_l1(rows: torch.Tensor) -> float:
    """Relative L1 distance (paper, equation 4) over all ranks.

    rows [ranks, 6]: request, config, step, accumulated, numerator, denominator. Ranks must agree on the
    first four; one that does not raises the same error everywhere, where a hang would follow otherwise.
    """
    table = rows.tolist()
    if any(row[:4] != table[0][:4] for row in table):
        raise RuntimeError(
            "the ranks of one video disagree on (request, cache settings, step, accumulated distance): "
            f"{[tuple(row[:4]) for row in table]}"
        )
    numerator, denominator = (math.fsum(column) for column in list(zip(*table))[4:])
    return numerator / denominator if denominator else math.nan
