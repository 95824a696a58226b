"""`cached`: a cache around the transformer of a video pipeline, for as long as a context lasts."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from videosys.cache import (
    CACHES,
    BestConfig,
    CacheConfig,
    Calibration,
    Goal,
    PABConfig,
    RunSpec,
    StepRecord,
    cache_statistics,
    read_calibration,
    resolve_cache,
)
from videosys.diffusers.blocks import Blocks, block_lists
from videosys.diffusers.checks import check_pipeline, is_compiled, is_sharded, parallel_of, run_spec
from videosys.diffusers.loop import Loop, Slot, evaluation_times, first_evaluation
from videosys.diffusers.places import AUTO, OUTPUT, STACK, OutputPlace, StackPlace
from videosys.diffusers.swaps import swapped
from videosys.utils.logging import get_logger
from videosys.utils.typed import listing

_LOG = get_logger("diffusers")
GIVEN = "the calibration"  # where its settings come from, in messages
Place = OutputPlace | StackPlace


@contextlib.contextmanager
def cached(
    pipe: Any,
    calibration: Calibration | str | Path | None = None,
    *,
    cache: str | CacheConfig | None = None,
    speedup: float | None = None,
    min_psnr: float | None = None,
    place: str = AUTO,
) -> Iterator[CachedRun]:
    """Within the context, generations of a video pipeline of diffusers use a cache; yields its `CachedRun`.

    calibration: what `calibrate` returned, or its file. cache: a policy, by name or with its settings.
    speedup, min_psnr: goals, which the calibration turns into settings (of any policy, without `cache`);
        speedup is the number of a model's calls divided by those that compute.
    place: output keeps the model's prediction, stack the residual of its blocks; auto is the calibration's
        place, else stack where each block takes what the one before returned, else output.
    ValueError, before anything runs, for what cannot work. Afterwards the pipeline is as it was before.
    """
    models = check_pipeline(pipe)
    config = policy(cache, speedup, min_psnr)
    found, where = _calibration(getattr(config, "calibration", None) if calibration is None else calibration)
    if found is None and isinstance(config, Goal) and config.has_goal:
        raise ValueError("speedup and min_psnr need a calibration; videosys.diffusers.calibrate makes one")
    config = dataclasses.replace(config, calibration=where) if found and isinstance(config, Goal) else config
    run = CachedRun(pipe, config, found, where)
    run.resolved(run_spec(pipe, reads_weights=found is not None))
    with contextlib.ExitStack() as stack:
        for number, model in enumerate(models):
            parts = Part(run, number, model, check_place(place, found))
            stack.enter_context(swapped(parts.blocks.blocks, {"__call__": parts.blocks.called}))
            stack.enter_context(swapped([model], {"__call__": parts.called}))
        handlers = {"step": run.scheduler_stepped, "set_timesteps": run.timesteps_set}
        stack.enter_context(swapped([pipe.scheduler], handlers))
        stack.enter_context(swapped([pipe], {"__call__": run.generated}))
        try:
            yield run
        finally:
            run.close()


def _calibration(given: Calibration | str | Path | None) -> tuple[Calibration | None, str]:
    if given is None or isinstance(given, Calibration):
        return given, GIVEN
    if not isinstance(given, (str, Path)):
        raise ValueError(f"calibration is {given!r}; it must be a calibration or the name of its file")
    return read_calibration(given), str(given)


def policy(cache: str | CacheConfig | None, speedup: float | None, min_psnr: float | None) -> CacheConfig:
    """The settings, perhaps with a goal, that the arguments of `cached` ask for."""
    goals = {"speedup": speedup, "min_psnr": min_psnr}
    goals = {name: value for name, value in goals.items() if value is not None}
    if isinstance(cache, str):
        if cache not in CACHES:
            raise ValueError(f"cache is {cache!r}; there are {listing(CACHES)}")
        cls = CACHES[cache]
        config = cls(**goals) if not goals or issubclass(cls, Goal) else _no_goal(cls)
    elif cache is None:
        if not goals:
            raise ValueError("nothing is asked for; give cache, speedup or min_psnr")
        config = BestConfig(**goals)
    else:
        config = cache
        if goals:
            config = dataclasses.replace(cache, **goals) if isinstance(cache, Goal) else _no_goal(type(cache))
    if not isinstance(config, CacheConfig):
        raise ValueError(f"cache is {cache!r}; it must be the name of a policy or its settings")
    if isinstance(config, PABConfig):
        raise ValueError("cache pab needs blocks made for it; diffusers' PyramidAttentionBroadcastConfig is it")
    return config


def _no_goal(cls: type) -> CacheConfig:
    raise ValueError(f"{cls.__name__} cannot be asked for by speedup or min_psnr")


def check_place(place: str, calibration: Calibration | None) -> str:
    """The place asked for, else that of the calibration. ValueError for others."""
    if place not in (AUTO, OUTPUT, STACK):
        raise ValueError(f"place is {place!r}; there are {AUTO}, {OUTPUT}, {STACK}")
    own = None if calibration is None else calibration.scope.place
    if own is not None and place not in (AUTO, own):
        raise ValueError(f"place is {place!r}; the calibration was made with {own!r}")
    return own or place


class CachedRun:
    """What a cache does in the generations of one context.

    generations: for each, one record per call of a model. steps: those of the last one.
    watch: called with (slot, place, forward) after each call that computed, and observe with the scheduler's
        (arguments by name, result) after each of its steps: for calibration.
    """

    def __init__(self, pipe: Any, config: CacheConfig, calibration: Calibration | None, where: str):
        self.pipe, self.config, self.calibration, self.where = pipe, config, calibration, where
        self.scheduler = pipe.scheduler
        self.generations: list[list[StepRecord]] = []
        self.watch: Callable[[Slot, Place, Callable[[], Any]], None] | None = None
        self.observe: Callable[[Mapping[str, Any], Any], None] | None = None
        self._thread: int | None = None  # that generates now
        self._is_open, self._is_new, self._loops = True, True, 0
        self._loop: Loop | None = None
        self._settings, self._spec = config, RunSpec()

    @property
    def steps(self) -> list[StepRecord]:
        return self.generations[-1] if self.generations else []

    def report(self) -> str:
        """One line for each generation: calls computed, distances, bytes held, a digest of the decisions."""
        if not self.generations:
            return "nothing was generated"
        lines = [str(cache_statistics(steps)) for steps in self.generations]
        return "\n".join(line.replace(" steps", " calls of the model", 1) for line in lines)

    def resolved(self, spec: RunSpec) -> CacheConfig:
        """The settings for a run. ValueError where the calibration is for another one."""
        if self.calibration is None:
            return resolve_cache(self.config, lambda: spec)
        self.calibration.scope.check(spec, self.where)
        return resolve_cache(self.config, lambda: spec, given=(self.calibration, self.where))

    def close(self) -> None:
        """Ends the context: what still has a swapped class, such as a copy of the scheduler, does nothing."""
        self._is_open, self._loop = False, None

    @property
    def is_active(self) -> bool:
        """Whether this thread is in a generation of the pipeline."""
        return self._is_open and self._thread == threading.get_ident()

    def generated(self, pipe: Any, call: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """The handler of the pipeline's call."""
        if not self._is_open or self._thread is not None:
            return call(*args, **kwargs)
        self._spec = run_spec(pipe, arguments_of(call, args, kwargs), self.calibration is not None)
        self._settings = self.resolved(self._spec)
        self._thread, self._is_new = threading.get_ident(), True
        self.generations.append([])
        try:
            return call(*args, **kwargs)
        finally:
            self._thread, self._loop = None, None

    def timesteps_set(self, scheduler: Any, call: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """The handler of the scheduler's set_timesteps: the next call of a model begins a loop."""
        self._is_new = self._is_new or self.is_active
        return call(*args, **kwargs)

    def scheduler_stepped(self, scheduler: Any, call: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """The handler of the scheduler's step, and of its copies' (one per frame, or for audio)."""
        result = call(*args, **kwargs)
        if self.is_active and self._loop is not None:
            self._loop.stepped()
            if self.observe is not None and scheduler is self.scheduler:
                self.observe(arguments_of(call, args, kwargs), result)
        return result

    def loop(self, model: nn.Module, timestep: Any) -> Loop:
        """The loop that a call of a model belongs to. RuntimeError where the scheduler was replaced."""
        if self.pipe.scheduler is not self.scheduler:
            raise RuntimeError("the pipeline's scheduler was replaced within `cached`; replace it before")
        if self._loop is None or self._is_new:
            self._loop, self._is_new = self._new_loop(model, timestep), False
        return self._loop

    def _new_loop(self, model: nn.Module, timestep: Any) -> Loop:
        times, timesteps = evaluation_times(self.scheduler)
        first = first_evaluation(timestep, timesteps)
        times, timesteps = times[first:], timesteps[first:]
        spec = dataclasses.replace(self._spec, evaluations=len(times), guidance_scale=None)  # no second warning
        settings, parallel = self.resolved(spec), parallel_of(model)
        self._loops += 1
        parallel.agree("the settings of the cache", self._loops, len(times), *_numbers(settings))
        return Loop(settings, times, timesteps, parallel.gather_rows, self._loops)


def _numbers(settings: CacheConfig) -> tuple[float, ...]:
    """Settings as a number that differs where they do."""
    return (float(zlib.crc32(repr(settings).encode())),)


class Part:
    """One model of a pipeline, its blocks, and the place of its cache."""

    def __init__(self, run: CachedRun, number: int, model: nn.Module, place: str):
        self.run, self.number = run, number
        inner = getattr(model, "_orig_mod", model)
        self._parameters = inspect.signature(type(inner).forward)
        self._channels = _channels(inner)
        why_not = self._why_no_stack(model)
        if place == STACK and why_not:
            raise ValueError(f"place 'stack' cannot be: {why_not}; 'output' can")
        self.is_sure = place != AUTO
        self.blocks = Blocks([] if place == OUTPUT or why_not else block_lists(inner))
        self.place: Place = OutputPlace()
        if self.blocks.blocks:
            self.place = StackPlace(self.blocks, needs_order=not self.is_sure)

    def _why_no_stack(self, model: nn.Module) -> str | None:
        name = type(getattr(model, "_orig_mod", model)).__name__
        if is_compiled(model):
            return f"{name} is compiled as a whole (compile its blocks instead)"
        if is_sharded(model):
            return f"the blocks of {name} see only a rank's share of the tokens"
        return None if block_lists(model) else f"{name} has no list of blocks"

    def called(self, model: nn.Module, call: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """The handler of the model's call."""
        forward = functools.partial(call, *args, **kwargs)
        if not self.run.is_active or writes_state(kwargs):
            return forward()
        arguments = self._parameters.bind_partial(model, *args, **kwargs).arguments
        noisy = next(value for value in arguments.values() if isinstance(value, Tensor))
        loop = self.run.loop(model, arguments.get("timestep"))
        slot = loop.next_slot(self.number, (noisy.shape, noisy.dtype, noisy.device))
        if slot is None:
            record = StepRecord(loop.step, float("nan"), None, None, None, True)
            self.run.steps.append(record)
            return forward()
        watched = functools.partial(self._noisy, noisy)
        output = self.place.run(forward, slot, watched)
        self._settle(slot, watched, output)
        self.run.steps.append(slot.record())
        if self.run.watch is not None and slot.computed:
            self.run.watch(slot, self.place, forward)
        return output

    def _noisy(self, x: Tensor) -> Tensor:
        """The noisy channels of a model's input, as a copy: pipelines may write into it later."""
        channels_in, channels_out = self._channels
        has_more = x.ndim == 5 and x.shape[1] == channels_in and channels_out < channels_in
        return (x[:, :channels_out] if has_more else x).detach().clone()

    def _settle(self, slot: Slot, noisy: Callable[[], Tensor], output: Any) -> None:
        """Goes over to the model's output where the first call has shown that the blocks cannot be used."""
        problem = getattr(self.place, "problem", None)
        if problem is None:
            return
        if self.is_sure:
            raise ValueError(f"place 'stack' cannot be: {problem}; 'output' can")
        _LOG.info("the cache keeps the model's output: %s", problem)
        self.place = OutputPlace()
        slot.restart()
        slot.should_compute(lambda kind: noisy())
        self.place.keep(slot, output)


def arguments_of(call: Callable[..., Any], args: tuple, kwargs: dict) -> dict[str, Any]:
    """The arguments of a method by name, with their defaults; none where they do not fit it."""
    try:
        bound = inspect.signature(call).bind(*args, **kwargs)
    except TypeError:
        return {}  # the call itself says what is wrong with them
    bound.apply_defaults()
    return dict(bound.arguments)


def writes_state(kwargs: Mapping[str, Any]) -> bool:
    """Whether a call fills a key-value cache of the model, which later calls read."""
    flag = kwargs.get("kv_cache_flag")
    return isinstance(flag, Mapping) and bool(flag.get("is_cache_step"))


def _channels(model: nn.Module) -> tuple[int, int]:
    config = getattr(model, "config", None) or {}
    values = [config.get(name) if hasattr(config, "get") else None for name in ("in_channels", "out_channels")]
    first, last = (value if isinstance(value, int) else 0 for value in values)
    return first, last or first
