"""Schedule: a fixed list of computed steps, such as the result of a search, with its forecast."""

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
    """Settings of the schedule policy: exactly one of `computed`, `file` or a goal.

    computed: indices of the computed model evaluations, in order; the first and the last always compute.
    file: a JSON file with `computed` and `forecast`, see `ScheduleFile`.
    forecast: of the kept tensors, for skipped steps; omit it and `place` with a file.
    place: the tensor kept from a computed step; stack is the blocks' residual, output the model's prediction.
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
                "a schedule needs exactly one of cache.computed (a list), cache.file or a goal such as "
                "cache.speedup"
            )
        for name, default in (("forecast", HOLD), ("place", STACK)):
            if self.file is not None and getattr(self, name) != default:
                raise ValueError(f"cache.{name} and cache.file are both given; the file has the {name}")
        check_steps("cache.computed", self.computed or ())

    def resolved(self, run: Callable[[], RunSpec], calibrated: Calibrated) -> CacheConfig:
        return self.for_run(run())

    def for_run(self, run: RunSpec) -> ScheduleConfig:
        """The settings with the content of the file. ValueError if they do not match the run."""
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
        """The computed steps, including the first and the last of `count`. ValueError for steps out of range,
        or if the file was not read yet.
        """
        if self.file is not None:
            raise ValueError(f"{self} is not loaded; call videosys.cache.resolve_cache")
        return forced_steps(count).union(self.for_run(RunSpec(evaluations=count)).computed or ())


@dataclass(frozen=True)
class ScheduleFile(RunSpec):
    """A schedule in a JSON file: steps, forecast and, if known, the run that it is valid for."""

    computed: tuple[int, ...] = ()
    forecast: Forecast = field(default=HOLD, metadata={"registry": FORECASTS})
    place: Place = STACK

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.computed:
            raise ValueError("computed is missing or empty; it must be a list of steps")
        check_steps("computed", self.computed, self.evaluations)

    def settings(self, config: ScheduleConfig) -> ScheduleConfig:
        """`config` with the content of the file."""
        return replace(config, file=None, computed=self.computed, forecast=self.forecast, place=self.place)


def check_steps(name: str, steps: Sequence[int], count: int | None = None) -> None:
    """ValueError unless the steps are strictly increasing and below `count`."""
    if list(steps) != sorted(set(steps)) or (steps and steps[0] < 0):
        raise ValueError(f"{name} is {list(steps)}; the steps must be 0 or more and strictly increasing")
    if count is not None and steps and steps[-1] >= count:
        raise ValueError(f"{name} has step {steps[-1]}; the steps are 0 to {count - 1}")
