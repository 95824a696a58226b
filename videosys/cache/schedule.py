"""Schedule: a fixed list of computed steps, such as a search finds, with the forecast it was found for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from videosys.cache.base import STACK, Place, forced_steps
from videosys.cache.config import CacheConfig, Calibrated, Goal
from videosys.cache.forecast import FORECASTS, HOLD, Fitted, Forecast
from videosys.cache.run_spec import RunSpec
from videosys.utils.plain import read_json


@dataclass(frozen=True)
class ScheduleConfig(Goal):
    """Settings of the schedule policy: `computed`, `file` or a goal, one of them.

    computed: indices of the model evaluations that compute, in order; the first and the last always do.
    file: a JSON file with `computed` and `forecast`, see `ScheduleFile`.
    forecast: of what is kept, in a skipped step; with a file it must be left out, and so must `place`.
    place: what is kept of a computed step; stack is the blocks' residual, output the model's prediction.
    """

    computed: tuple[int, ...] | None = None
    file: str | None = field(default=None, metadata={"local": True})
    forecast: Forecast = field(default=HOLD, metadata={"registry": FORECASTS})
    place: Place = STACK

    def __post_init__(self) -> None:
        super().__post_init__()
        num_sources = (self.computed is not None) + (self.file is not None) + self.has_goal
        if num_sources != 1:
            raise ValueError(
                "a schedule needs its steps: cache.computed (a list), cache.file, or a goal such as "
                "cache.speedup; give one of them"
            )
        for name, default in (("forecast", HOLD), ("place", STACK)):
            if self.file is not None and getattr(self, name) != default:
                raise ValueError(f"cache.{name} is given, and so is cache.file, which says the {name}")
        check_steps("cache.computed", self.computed or ())

    def resolved(self, run: Callable[[], RunSpec], calibrated: Calibrated) -> CacheConfig:
        return self.for_run(run())

    def for_run(self, run: RunSpec) -> ScheduleConfig:
        """The settings with the content of the file. ValueError where they do not fit the run."""
        if self.file is not None:
            content = read_json(ScheduleFile, self.file)
            content.check(run, self.file)
            return content.settings(self).for_run(run)
        check_steps("cache.computed", self.computed or (), run.evaluations)
        if isinstance(self.forecast, Fitted) and run.evaluations is not None:
            rows, steps = len(self.forecast.weights_per_step), run.evaluations
            if rows != steps:
                raise ValueError(
                    f"forecast.weights_per_step has {rows} entries; it must have one for each of the {steps} "
                    "steps"
                )
        return self

    def computed_steps(self, count: int) -> frozenset[int]:
        """The steps that compute out of `count`, with the first and the last. ValueError for others, and
        before the file is read.
        """
        if self.file is not None:
            raise ValueError(f"{self} has not been read yet; videosys.cache.resolve_cache reads it")
        return forced_steps(count).union(self.for_run(RunSpec(evaluations=count)).computed or ())


@dataclass(frozen=True)
class ScheduleFile(RunSpec):
    """A schedule in a JSON file: its steps, its forecast, and as far as known the run it is for."""

    computed: tuple[int, ...] = ()
    forecast: Forecast = field(default=HOLD, metadata={"registry": FORECASTS})
    place: Place = STACK

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.computed:
            raise ValueError("computed is missing or empty; it must be a list of steps")
        check_steps("computed", self.computed, self.evaluations)

    def settings(self, config: ScheduleConfig) -> ScheduleConfig:
        """`config` with the content of the file in place of its name."""
        return replace(config, file=None, computed=self.computed, forecast=self.forecast, place=self.place)


def check_steps(name: str, steps: Sequence[int], count: int | None = None) -> None:
    """ValueError unless the steps are in order, none twice, and below `count`."""
    if list(steps) != sorted(set(steps)) or (steps and steps[0] < 0):
        raise ValueError(f"{name} is {list(steps)}; the steps must be 0 or more, in order, and none twice")
    if count is not None and steps and steps[-1] >= count:
        raise ValueError(f"{name} holds step {steps[-1]}; there are steps 0 to {count - 1}")
