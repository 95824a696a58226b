"""Base classes of the settings of policies. Settings start a new cache for each generation."""

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

BESIDE_WEIGHTS = "beside"  # value of `calibration`: use the file in the transformer's folder
GOALS = ("speedup", "evaluations", "min_psnr")
Calibrated = Callable[[str], tuple[Any, str]]


@dataclass(frozen=True)
class CacheConfig:
    """Base class of the settings of every policy, without fields.

    A policy overrides `computed_steps` if the steps are known before the generation starts, else `start`.
    forecast, device, place: used by `start`; to make them configurable, a policy declares fields with these
        names.
    """

    forecast = HOLD
    device = AUTO
    place = STACK

    def __post_init__(self) -> None:
        check_types(self)
        check_least(self, "cache")

    def start(self, times: Sequence[float], gather_rows: GatherRows, request_id: int = 0) -> Cache:
        """Return a new cache for one generation; by default one that computes `computed_steps`.

        times: the sampler's time at each model evaluation. gather_rows: maps this rank's row to the rows
        [ranks, len(row)] of all ranks that share the video. request_id: equal on these ranks, different in
        each generation.
        """
        return FixedCache(self.computed_steps(len(times)), times, self.forecast, self.device, self.place)

    def computed_steps(self, count: int) -> frozenset[int]:
        """The indices of the computed steps in a generation of `count` model evaluations."""
        raise NotImplementedError(f"{type(self).__name__} must define `computed_steps` or `start`")

    @classmethod
    def for_budget(cls, budget: int, count: int) -> CacheConfig | None:
        """The settings to measure in a calibration for about `budget` computed steps of `count`. None if the
        policy is not measured, or if the calibration finds its settings (TeaCache, MagCache, schedules).
        """
        return None

    def resolved(self, run: Callable[[], RunSpec], calibrated: Calibrated) -> CacheConfig:
        """Return the config with all values from files resolved. Called before weights are loaded.

        run: returns the run about to start. calibrated: returns the value of a key of the calibration
        file (coefficients, ratios), and the file's name; ValueError if there is none.
        """
        return self


@dataclass(frozen=True, kw_only=True)
class Goal(CacheConfig):
    """Base class of the settings of policies that accept a goal: a speed-up, evaluations or a PSNR.

    calibration: a file written by `python -m videosys.calibration`. None and `beside` search for
        calibration*.json in the folder of the transformer's weights. Without a goal, a named file or `beside`
        provides TeaCache's coefficients and MagCache's ratios.
    speedup: minimum factor relative to a run without a cache; selects the best PSNR.
    evaluations: maximum mean number of computed model evaluations; selects the best PSNR.
    min_psnr: minimum PSNR in dB against a run without a cache; selects the largest speed-up.
    device: where tensors are kept between steps: auto is the model's device; cpu saves
        GPU memory at the cost of a copy per use.
    """

    calibration: str | None = field(default=None, metadata={"local": True})
    speedup: float | None = at_least(1, default=None)
    evaluations: int | None = at_least(1, default=None)
    min_psnr: float | None = None
    device: str = AUTO

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_goal()

    @property
    def has_goal(self) -> bool:
        """Whether the settings must still be chosen from a calibration file."""
        return any(value is not None for value in self.goals.values())

    @property
    def goals(self) -> dict[str, float | None]:
        """The values of the goal fields, by name."""
        return {name: getattr(self, name) for name in GOALS}

    def check_goal(self, replaces_fields: bool = False) -> None:
        """ValueError for a speedup, min_psnr or device out of range, or for a goal with other settings.

        replaces_fields: allow other settings, which the goal replaces. For `__post_init__`.
        """
        check_cache_device(self.device)
        if self.min_psnr is not None and not self.min_psnr > 0:
            raise ValueError(f"cache.min_psnr is {self.min_psnr}; it must be above 0")
        names = [field.name for field in dataclasses.fields(Goal)]
        own = [field for field in dataclasses.fields(self) if field.name not in names]
        changed = [field.name for field in own if getattr(self, field.name) != _default(field)]
        if self.has_goal and changed and not replaces_fields:
            raise ValueError(
                f"cache.{changed[0]} cannot be combined with a goal ({', '.join(GOALS)}): the calibration "
                "file has the settings; remove one of the two"
            )


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
