"""SeaCache (arXiv 2602.18993): TeaCache's rule applied to latents with the noise filtered out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from videosys.cache.base import STACK, Cache, GatherRows, Place, Signal, identity_of
from videosys.cache.config import Goal
from videosys.cache.forecast import FORECASTS, HOLD, Forecast
from videosys.cache.ranges import at_least
from videosys.cache.teacache import TeaCache, l1_sums, plain_rule, ratio

TINY = 1e-6  # lower bound of the shares of data and of noise
AXES = (-3, -2, -1)  # frames, rows, columns


@dataclass(frozen=True)
class SeaCacheConfig(Goal):
    """Settings of SeaCache, without calibration.

    threshold: the blocks run if the sum of the filtered latents' relative changes reaches it; 0 computes
        every step.
    power: the data's power spectrum falls as 1 / |f|^power; 3 is published for videos.
    max_consecutive_skips: maximum number of skips in a row; None for no limit, as published.
    forecast: of the kept tensors, for skipped steps; hold is the published rule.
    place: the tensor kept from a computed step; stack is the blocks' residual, output the model's prediction.
    """

    threshold: float = at_least(0, default=0.2)
    power: float = at_least(0, default=3.0)
    max_consecutive_skips: int | None = at_least(1, default=None)
    forecast: Forecast = field(default=HOLD, metadata={"registry": FORECASTS})
    place: Place = STACK

    def start(self, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0) -> Cache:
        return SeaCache(self, times, gather_rows, request_id)


class SeaCache(TeaCache):
    """Sums the relative changes of the filtered latents, averaged over samples.

    The latents are complete on every rank, so all ranks have the same sums. times, gather_rows, request_id:
    as in `CacheConfig.start`.
    """

    def __init__(
        self, config: SeaCacheConfig, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0
    ):
        rule = plain_rule(config, max_consecutive_skips=config.max_consecutive_skips)
        super().__init__(rule, times, gather_rows, request_id)
        self.identity = identity_of(request_id, config)
        self.power = config.power
        self.filtered: torch.Tensor | None = None  # latents of this step

    def begin_step(self, step: int, timestep: float) -> None:
        super().begin_step(step, timestep)
        self.filtered = None

    def observe_latents(self, latents: torch.Tensor, mix: tuple[float, float]) -> None:
        self.filtered = spectral_filter(latents, mix, self.power)

    def should_compute(self, signal: Signal) -> bool:
        filtered = self.filtered
        if filtered is None and self.is_forced:  # nothing to compare
            self.record(computed=True)
            return True
        if filtered is None:
            raise RuntimeError("SeaCache needs the latents, but the loop did not call observe_latents")
        return super().should_compute(lambda kind: filtered)

    def sums(self, current: torch.Tensor, previous: torch.Tensor) -> tuple[float, float]:
        pairs = [l1_sums(*rows) for rows in zip(current, previous)]
        return sum(ratio(*pair) for pair in pairs) / len(pairs), 1.0


def spectral_filter(latents: torch.Tensor, mix: tuple[float, float], power: float) -> torch.Tensor:
    """Latents [..., T, H, W], float32, with the gains of `wiener_gains` along each axis."""
    spectrum = torch.fft.fftn(latents.float(), dim=AXES)
    for axis in AXES:
        gains = wiener_gains(latents.shape[axis], mix, power).to(spectrum.device, torch.float32)
        spectrum = spectrum * gains.reshape(-1, *[1] * (-1 - axis))
    return torch.fft.ifftn(spectrum, dim=AXES).real.contiguous()


def wiener_gains(size: int, mix: tuple[float, float], power: float) -> torch.Tensor:
    """The Wiener filter for data in a * data + b * noise, with the data's spectrum S = 1 / |f|^power:

        a S / (a^2 S + b^2), divided by its mean

    float64 [size], in the order of the discrete Fourier transform. mix: (a, b).
    """
    a, b = (min(max(share, TINY), 1 - TINY) for share in mix)
    inverse = torch.fft.fftfreq(size, dtype=torch.float64, device="cpu").abs() ** power + 1e-16  # 1 / S
    gains = a / (a * a + b * b * inverse)
    return gains / gains.mean()
