"""TeaCache (arXiv 2411.19108): skips the blocks while the modulated input changes little."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from videosys.cache.base import STACK, Cache, GatherRows, Place, ResidualCache, Signal, identity_of
from videosys.cache.config import CacheConfig, Calibrated, Goal
from videosys.cache.device import to_cache_device
from videosys.cache.forecast import FORECASTS, HOLD, Forecast
from videosys.cache.ranges import at_least
from videosys.cache.run_spec import RunSpec
from videosys.utils.devices import float64_device, host_row
from videosys.utils.triton import runs_triton

_LOG = logging.getLogger("videosys.cache")
IDENTITY = (1.0, 0.0)
MODULATED = "modulated"  # the signal of published and calibrated coefficients


@dataclass(frozen=True)
class TeaCacheConfig(Goal):
    """Settings of TeaCache (section 3.4 of the paper).

    threshold: the blocks run if the sum of rescaled distances reaches this value; 0 computes every step.
    coefficients: the rescaling polynomial, highest power first. None: use the model's published coefficients,
        which are for the modulated input, or [1, 0] (no rescaling) for another signal.
    forecast: of the kept tensors, for skipped steps; hold is the published rule.
    place: the tensor kept from a computed step; stack is the blocks' residual, as published, output the
        model's prediction.
    signal: modulated is the first block's input after norm and modulation, timestep the time embedding
        (ablation).
    max_consecutive_skips: maximum number of skips in a row; None for no limit.
    floor: negative values of the polynomial count as 0; false adds them to the sum, as published.
    """

    threshold: float = at_least(0, default=0.1)
    coefficients: tuple[float, ...] | None = None
    forecast: Forecast = field(default=HOLD, metadata={"registry": FORECASTS})
    place: Place = STACK
    signal: Literal["modulated", "timestep"] = "modulated"
    max_consecutive_skips: int | None = at_least(1, default=None)
    floor: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = self.coefficients
        if numbers is not None and not (numbers and all(map(math.isfinite, numbers))):
            raise ValueError(f"cache.coefficients are {numbers}; they must be one or more finite numbers")

    def start(self, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0) -> Cache:
        return TeaCache(self, times, gather_rows, request_id)

    def resolved(self, run: Callable[[], RunSpec], calibrated: Calibrated) -> CacheConfig:
        """The settings with the coefficients of a named calibration, and with `floor`."""
        if not self.calibration or self.coefficients is not None:
            return self
        coefficients, path = calibrated("coefficients")
        if self.signal != MODULATED:
            message = "%s has coefficients for the %s input; using [1, 0] for the %s"
            _LOG.warning(message, path, MODULATED, self.signal)
        return replace(self.with_coefficients(coefficients), floor=True)

    def adapted(self, changes: Mapping[str, Any]) -> TeaCacheConfig:
        """These settings as the base of a config with overrides: another signal drops the coefficients."""
        signal = changes.get("signal", self.signal)
        return self if signal == self.signal else replace(self, coefficients=None)

    def with_coefficients(self, coefficients: Sequence[float]) -> TeaCacheConfig:
        """The settings with these coefficients of the modulated input, if they have none.

        For another signal the coefficients are [1, 0].
        """
        if self.coefficients is not None:
            return self
        own = tuple(coefficients) if self.signal == MODULATED else IDENTITY
        return replace(self, coefficients=own)


class TeaCache(ResidualCache):
    """Sums the rescaled relative L1 changes of the signal. A step computes if the sum reaches the threshold.

    times, gather_rows, request_id: as in `CacheConfig.start`. Each rank contributes one row per step:
    request, settings, step, accumulated, and its two sums of equation 4. All ranks add the same rows in the
    same order, so their decisions are equal.
    """

    def __init__(
        self, config: TeaCacheConfig, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0
    ):
        super().__init__(times, config.forecast, config.device, config.place)
        self.config = config
        self.coefficients = config.coefficients or IDENTITY
        self.gather_rows = gather_rows
        self.identity = identity_of(request_id, config)
        self.previous: torch.Tensor | None = None
        self.accumulated = 0.0
        self.skips_in_a_row = 0

    def held(self) -> Iterable[torch.Tensor]:
        return [*super().held(), *([] if self.previous is None else [self.previous])]

    def should_compute(self, signal: Signal) -> bool:
        current = signal(self.config.signal)
        previous = None if self.previous is None else self.previous.to(current.device)
        self.previous = to_cache_device(current, self.device)
        if self.is_forced or previous is None:
            computed = True
            self.record(computed=True)
        else:
            computed = self._accumulate(current, previous)
        self.skips_in_a_row = 0 if computed else self.skips_in_a_row + 1
        self.accumulated = 0.0 if computed else self.accumulated
        return computed

    def _accumulate(self, current: torch.Tensor, previous: torch.Tensor) -> bool:
        """Whether the sum including this step reaches the threshold, or is NaN."""
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
        row = (*self.identity, float(self.step), self.accumulated, *self.sums(current, previous))
        return relative_l1(self.gather_rows(host_row(row)))

    def sums(self, current: torch.Tensor, previous: torch.Tensor) -> tuple[float, float]:
        """Numerator and denominator of the distance for this rank's tokens."""
        return l1_sums(current, previous)


def plain_rule(config: Any, **more: Any) -> TeaCacheConfig:
    """TeaCache's settings without a polynomial, for a policy that decides by another distance.

    config: the policy's settings, with threshold, forecast, place and device.
    """
    names = ("threshold", "forecast", "place", "device")
    return TeaCacheConfig(coefficients=IDENTITY, **{name: getattr(config, name) for name in names}, **more)


def polynomial(coefficients: Sequence[float], x: float, floor: bool = False) -> float:
    """Evaluate a polynomial at x (Horner), highest power first. floor: clamp the value at 0."""
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return max(value, 0.0) if floor else value  # NaN is kept, so that the step computes


def l1_sums(current: torch.Tensor, previous: torch.Tensor) -> tuple[float, float]:
    """sum|current - previous| and sum|previous| (equation 4), summed in float64 from float32 values."""
    if runs_triton(current.device):
        from videosys.cache.kernels import l1_sums_in_one_pass  # imports triton, which takes a second

        sums = l1_sums_in_one_pass(current, previous)
    else:
        current, previous = (item.to(float64_device(item.device)) for item in (current, previous))
        difference = (current.float() - previous.float()).abs().sum(dtype=torch.float64)
        size = previous.float().abs().sum(dtype=torch.float64)
        sums = torch.stack((difference, size))
    numerator, denominator = sums.tolist()  # one transfer to the host
    return numerator, denominator


def relative_l1(rows: torch.Tensor) -> float:
    """Relative L1 distance (equation 4) over all ranks; nan if the denominator is 0.

    rows [ranks, 6]: request, settings, step, accumulated, numerator, denominator. RuntimeError on all ranks
    if they differ in the first four, because they would wait for each other forever.
    """
    return ratio(*(math.fsum(column) for column in list(zip(*same_rows(rows)))[4:]))


def same_rows(rows: torch.Tensor) -> list[list[float]]:
    """The rows of all ranks; RuntimeError on all of them if they differ in the first four columns."""
    table = rows.tolist()
    if any(row[:4] != table[0][:4] for row in table):
        raise RuntimeError(
            "the ranks of one video disagree on (request, cache settings, step, accumulated distance): "
            f"{[tuple(row[:4]) for row in table]}"
        )
    return table


def ratio(numerator: float, denominator: float) -> float:
    """The quotient; NaN if the denominator is 0."""
    return numerator / denominator if denominator else math.nan
