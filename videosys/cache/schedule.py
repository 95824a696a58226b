"""A fixed list of computed steps, as an offline search finds it, with the forecast it was found for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from videosys.cache.config import CacheConfig, Calibrated, Goal
from videosys.cache.forecast import FORECASTS, HOLD, Fitted, Forecast
from videosys.cache.scope import Scope
from videosys.utils.plain import read_json


@dataclass(frozen=True)
class ScheduleConfig(Goal):
    """computed: the steps that compute, counted from 0 in model evaluations; the first and last always do.

    file: a JSON file with them instead, see `ScheduleFile`.
    forecast: what a skipped step takes for its residual; with a file, the file says it.
    """

    computed: tuple[int, ...] | None = None
    file: str | None = None
    forecast: Forecast = field(default=HOLD, metadata={"registry": FORECASTS})

    def __post_init__(self) -> None:
        super().__post_init__()
        given = (self.computed is not None) + (self.file is not None) + self.has_goal
        if given != 1:
            raise ValueError(
                "a schedule needs its steps: cache.computed (a list), cache.file, or a goal such as "
                "cache.speedup; give one of them"
            )
        if self.file is not None and self.forecast != HOLD:
            raise ValueError("cache.forecast is given, and so is cache.file, which says the forecast")
        check_steps("cache.computed", self.computed or ())

    def resolved(self, run: Callable[[], Scope], calibrated: Calibrated) -> CacheConfig:
        return self.for_run(run())

    def for_run(self, run: Scope) -> ScheduleConfig:
        """The same with what is in its file. ValueError where its steps are not those of the run."""
        if self.file is not None:
            content = read_json(ScheduleFile, self.file)
            content.check(run, self.file)
            read = replace(self, file=None, computed=content.computed, forecast=content.forecast)
            return read.for_run(run)
        check_steps("cache.computed", self.computed or (), run.evaluations)
        if isinstance(self.forecast, Fitted):
            check_fitted(self.forecast, run.evaluations)
        return self

    def computed_steps(self, count: int) -> frozenset[int]:
        """The steps that compute out of `count`. ValueError where there are fewer than the schedule needs."""
        if self.file is not None:
            raise ValueError(f"{self} has not been read yet; videosys.cache.resolve_cache reads it")
        return frozenset(self.for_run(Scope(evaluations=count)).computed or ())


@dataclass(frozen=True)
class ScheduleFile(Scope):
    """A schedule on disk: the steps, the forecast, and, where known, what it holds for."""

    computed: tuple[int, ...] = ()
    forecast: Forecast = field(default=HOLD, metadata={"registry": FORECASTS})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.computed:
            raise ValueError("computed is missing or empty; it must be a list of steps")
        check_steps("computed", self.computed, self.evaluations)


def check_steps(name: str, steps: Sequence[int], count: int | None = None) -> None:
    """ValueError unless the steps are in order, none twice, and below `count`."""
    if list(steps) != sorted(set(steps)) or (steps and steps[0] < 0):
        raise ValueError(f"{name} is {list(steps)}; the steps must be 0 or more, in order, and none twice")
    if count is not None and steps and steps[-1] >= count:
        raise ValueError(f"{name} holds step {steps[-1]}; there are steps 0 to {count - 1}")


def check_fitted(forecast: Fitted, count: int | None) -> None:
    if count is not None and len(forecast.weights_per_step) != count:
        raise ValueError(
            f"forecast.weights_per_step has {len(forecast.weights_per_step)} entries; it must have one for "
            f"each of the {count} steps"
        )
