"""`cached`: a context with a cache for the transformer of a video pipeline."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import threading
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

from torch import nn

from videosys.cache import CacheConfig, Calibration, RunSpec, StepRecord, cache_statistics, resolve_cache
from videosys.diffusers.checks import check_no_other_cache, check_pipeline, denoisers, parallel_of, run_spec
from videosys.diffusers.loop import Loop, evaluation_times, first_evaluation
from videosys.diffusers.part import Part, Watch
from videosys.diffusers.places import AUTO
from videosys.diffusers.settings import Given, check_policy, place_of, settings, without_place
from videosys.diffusers.swaps import swapped

END = object()  # marks the end of a generator
REPLACED = "the pipeline's scheduler or model was replaced within `cached`; replace it before"


@contextlib.contextmanager
def cached(
    pipe: Any,
    calibration: Given = None,
    *,
    cache: str | CacheConfig | None = None,
    speedup: float | None = None,
    min_psnr: float | None = None,
    place: str = AUTO,
) -> Iterator[CachedRun]:
    """Within the context, generations of a video pipeline of diffusers use a cache; yields its `CachedRun`.

    calibration: the result of `calibrate`, or its file. cache: a policy, by name or with its settings.
    speedup, min_psnr: goals, for which the calibration has settings (of any policy if `cache` is None);
        speedup is the number of a model's calls divided by those that compute.
    place: output keeps the model's prediction, stack the residual of its blocks; auto is the calibration's
        place, else stack if each block's input is the output of the previous one, else output.
    ValueError for invalid arguments, before anything runs. The pipeline is restored at the end.
    """
    models = check_pipeline(pipe)
    config, found, where = settings(cache, calibration, speedup, min_psnr)
    run = CachedRun(pipe, config, found, where)
    first = run.resolved(run_spec(pipe, reads_weights=found is not None))
    place = place_of(place, first, found is not None and getattr(config, "has_goal", False))
    with contextlib.ExitStack() as stack:
        for number, model in enumerate(models):
            part = Part(run, number, model, place)
            stack.enter_context(swapped([model], {"__call__": part.called}))
        handlers = {"step": run.scheduler_stepped, "set_timesteps": run.timesteps_set}
        stack.enter_context(swapped([pipe.scheduler], handlers))
        stack.enter_context(swapped([pipe], {"__call__": run.generated}))
        try:
            yield run
        finally:
            run.close()


class CachedRun:
    """The generations of one `cached` context, with the records of the cache.

    generations: for each generation, one record per call of a model. steps: the records of the last one.
    watch: called with (slot, place, forward, output) after each computed call. observe: called with
        (arguments by name, result) after each step of the scheduler or of a copy of it. Both are for
        calibration.
    """

    def __init__(self, pipe: Any, config: CacheConfig, calibration: Calibration | None, where: str):
        self.pipe, self.config, self.calibration, self.where = pipe, config, calibration, where
        self.scheduler, self._models = pipe.scheduler, denoisers(pipe)
        self.generations: list[list[StepRecord]] = []
        self.watch: Watch | None = None
        self.observe: Callable[[Mapping[str, Any], Any], None] | None = None
        self._thread: int | None = None  # the one that is generating
        self._is_open, self._is_new, self._is_busy = True, True, False
        self.num_loops = 0  # of the scheduler
        self.times: tuple[float, ...] = ()  # of the evaluations of the last one
        self._loop: Loop | None = None
        self._settings, self._spec = config, RunSpec()

    @property
    def steps(self) -> list[StepRecord]:
        return self.generations[-1] if self.generations else []

    def report(self) -> str:
        """One line per generation: computed calls, distances, bytes held, a digest of the decisions."""
        if not self.generations:
            return "no video was generated"
        lines = [str(cache_statistics(steps)) for steps in self.generations]
        return "\n".join(line.replace(" steps", " calls of the model", 1) for line in lines)

    def resolved(self, spec: RunSpec) -> CacheConfig:
        """The settings for a run. ValueError if the calibration, or one of its settings, does not fit it."""
        if self.calibration is None:
            return resolve_cache(self.config, lambda: spec)
        scope = self.calibration.scope
        scope.check(spec, self.where)
        known = spec if spec.evaluations else dataclasses.replace(spec, evaluations=scope.evaluations)
        config = resolve_cache(self.config, lambda: known, given=(self.calibration, self.where))
        check_policy(config)
        return config

    def close(self) -> None:
        """Ends the context. Objects with a swapped class, such as scheduler copies, behave as before."""
        self._is_open, self._loop = False, None

    @property
    def is_active(self) -> bool:
        """Whether this thread is in a generation of the pipeline."""
        return self._is_open and self._thread == threading.get_ident()

    def generated(self, pipe: Any, call: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """The handler of the pipeline's call. Its copies, and calls within a call, are not cached."""
        if pipe is not self.pipe or not self._is_open or self._is_busy:
            return call(*args, **kwargs)
        self._check_unchanged()
        self._spec = run_spec(pipe, arguments_of(call, args, kwargs), self.calibration is not None)
        self._settings = self.resolved(self._spec)
        self._is_busy, self._is_new = True, True
        self.generations.append([])
        try:
            with self._active():
                result = call(*args, **kwargs)
        except BaseException:
            self._end()
            raise
        if inspect.isgenerator(result):
            return self._continued(result)
        self._end()
        return result

    def _check_unchanged(self) -> None:
        """RuntimeError if a part of the pipeline was replaced, ValueError if a model has another cache."""
        now = [*map(id, denoisers(self.pipe)), id(self.pipe.scheduler)]
        if now != [*map(id, self._models), id(self.scheduler)]:
            raise RuntimeError(REPLACED)
        for model in self._models:
            check_no_other_cache(self.pipe, model)

    @contextlib.contextmanager
    def _active(self) -> Iterator[None]:
        """Within the context, calls of the models in this thread belong to the generation."""
        self._thread = threading.get_ident()
        try:
            yield
        finally:
            self._thread = None

    def _continued(self, parts: Generator[Any, Any, Any]) -> Iterator[Any]:
        """The items of a pipeline whose call is a generator. Until its end, other calls are not cached."""
        try:
            while (part := self._next(parts)) is not END:
                yield part
        finally:
            parts.close()
            self._end()

    def _next(self, parts: Generator[Any, Any, Any]) -> Any:
        with self._active():
            return next(parts, END)

    def _end(self) -> None:
        self._is_busy, self._loop = False, None

    def timesteps_set(self, scheduler: Any, call: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """The handler of the scheduler's set_timesteps: the next call of a model begins a loop."""
        self._is_new = self._is_new or self.is_active
        return call(*args, **kwargs)

    def scheduler_stepped(self, scheduler: Any, call: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """The handler of the step of the scheduler and of its copies (one per frame, or for audio)."""
        result = call(*args, **kwargs)
        if self.is_active and self._loop is not None:
            self._loop.stepped()
            if self.observe is not None:
                self.observe(arguments_of(call, args, kwargs), result)
        return result

    def loop(self, model: nn.Module, timestep: Any) -> Loop:
        """The loop that a call of a model belongs to. RuntimeError if the scheduler was replaced."""
        if self.pipe.scheduler is not self.scheduler:
            raise RuntimeError(REPLACED)
        if self._loop is None or self._is_new:
            self._loop, self._is_new = self._new_loop(model, timestep), False
        return self._loop

    def _new_loop(self, model: nn.Module, timestep: Any) -> Loop:
        times, timesteps = evaluation_times(self.scheduler)
        first = first_evaluation(timestep, timesteps, getattr(self.scheduler, "order", 1))
        times, timesteps = times[first:], timesteps[first:]
        # Guidance was already compared; this avoids a second warning.
        spec = dataclasses.replace(self._spec, evaluations=len(times), guidance_scale=None)
        config, parallel = self.resolved(spec), parallel_of(model)
        self.num_loops += 1
        parallel.agree(
            "the settings of the cache", self.num_loops, len(times), zlib.crc32(repr(config).encode())
        )
        self.times = tuple(times)
        return Loop(without_place(config), times, timesteps, parallel.gather_rows, self.num_loops)


def arguments_of(call: Callable[..., Any], args: tuple, kwargs: dict) -> dict[str, Any]:
    """The arguments of a method by name, with their defaults; empty if they do not fit the method."""
    try:
        bound = inspect.signature(call).bind(*args, **kwargs)
    except TypeError:
        return {}  # the call itself raises the error
    bound.apply_defaults()
    return dict(bound.arguments)
