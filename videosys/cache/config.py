"""The settings of a policy. They start its cache, once per generation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from videosys.cache.base import STACK, Cache, FixedCache, GatherRows
from videosys.cache.device import AUTO, check_cache_device
from videosys.cache.forecast import HOLD
from videosys.cache.ranges import at_least, check_least
from videosys.cache.run_spec import RunSpec
from videosys.utils.typed import check_types

BESIDE_WEIGHTS = "beside"  # as `calibration`: the file in the transformer's folder
Calibrated = Callable[[str], tuple[Any, str]]


@dataclass(frozen=True)
class CacheConfig:
    """Base of the settings of every policy, without fields of its own.

    A policy overrides `computed_steps` if they are known before the generation starts, else `start`.
    forecast, device, place: used by `start`; a policy that lets users choose them declares fields of these
        names.
    """

    forecast = HOLD
    device = AUTO
    place = STACK

    def __post_init__(self) -> None:
        check_types(self)
        check_least(self, "cache")

    def start(self, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0) -> Cache:
        """A new cache for one generation; here one that computes `computed_steps`.

        times: the sampler's time at each model evaluation. gather_rows: [row] of this rank -> [ranks, row] of
        all ranks that work on the same video. request_id: equal on these ranks, different in each generation.
        """
        return FixedCache(self.computed_steps(len(times)), times, self.forecast, self.device, self.place)

    def computed_steps(self, count: int) -> frozenset[int]:
        """The indices of the steps that compute, of a generation of `count` model evaluations."""
        raise NotImplementedError(f"{type(self).__name__} must define `computed_steps` or `start`")

    @classmethod
    def for_budget(cls, budget: int, count: int) -> CacheConfig | None:
        """The settings that a calibration measures for about `budget` computed steps of `count`; None for a
        policy that it does not measure, or finds settings for itself (TeaCache, MagCache, schedules).
        """
        return None

    def resolved(self, run: Callable[[], RunSpec], calibrated: Calibrated) -> CacheConfig:
        """The config with all values that are read from files; called before weights are loaded.

        run: returns what is about to be generated. calibrated: returns the value of a key of the calibration
        file (coefficients, ratios), and the file's name; ValueError where there is none.
        """
        return self


@dataclass(frozen=True, kw_only=True)
class Goal(CacheConfig):
    """Base of the settings of policies that can be asked for by a speedup or a PSNR.

    calibration: the file that `python -m videosys.calibration` wrote; None and `beside` search for
        calibration*.json in the folder of the transformer's weights. Without a goal TeaCache reads its
        coefficients from a file that is named, or `beside`, and MagCache its ratios.
    speedup: at least this factor over a run without a cache, with the best PSNR available.
    min_psnr: at least this PSNR in dB against the run without a cache, with the largest speedup available.
    device: where tensors are kept from step to step: auto is the model's device; cpu uses none of an
        accelerator's memory, and costs a copy for each use.
    """

    calibration: str | None = field(default=None, metadata={"local": True})
    speedup: float | None = at_least(1, default=None)
    min_psnr: float | None = None
    device: str = AUTO

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_goal()

    @property
    def has_goal(self) -> bool:
        """Whether the settings are still to be chosen from a calibration file."""
        return self.speedup is not None or self.min_psnr is not None

    def check_goal(self, replaces_fields: bool = False) -> None:
        """ValueError for a speedup, min_psnr or device out of range, and for a goal beside other settings.

        replaces_fields: other settings are allowed beside a goal, which replaces them. For `__post_init__`.
        """
        check_cache_device(self.device)
        if self.min_psnr is not None and not self.min_psnr > 0:
            raise ValueError(f"cache.min_psnr is {self.min_psnr}; it must be above 0")
        names = [field.name for field in dataclasses.fields(Goal)]
        own = [field for field in dataclasses.fields(self) if field.name not in names]
        changed = [field.name for field in own if getattr(self, field.name) != _default(field)]
        if self.has_goal and changed and not replaces_fields:
            raise ValueError(
                f"cache.{changed[0]} is given, and so is a goal (speedup, min_psnr): the calibration file "
                "says the settings then; leave one of the two out"
            )


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
