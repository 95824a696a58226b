"""One denoising loop of a pipeline: its steps, and a cache for each call of a model in a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from videosys.cache import Cache, CacheConfig, GatherRows, StepRecord, start
from videosys.cache.base import Signal

MAX_CALLS = 16  # of a model in one step; with more, the scheduler's steps were not observed


class Slot:
    """The state of one of the calls in each step, such as that for the negative prompt: one cache per tensor.

    number: index of the call in its step. new_cache: starts a cache. In the first call of a step, the first
        cache decides.
    """

    def __init__(self, loop: Loop, number: int, new_cache: Callable[[], Cache]):
        self.loop, self.number, self.new_cache = loop, number, new_cache
        self.caches: list[Cache] = [new_cache()]
        self.stored: int | None = None  # the last step whose tensors are kept
        self.shapes: list[torch.Size] = []  # of the kept tensors
        self.form: tuple[Any, list[Tensor]] | None = None  # template of the model's output, and zeros
        self.computed = True

    def begin(self) -> None:
        """Begins the current step of the loop."""
        for cache in self.caches:
            cache.begin_step(self.loop.step, self.loop.timestep)

    def restart(self) -> None:
        """Drops the caches and begins the current step again."""
        self.caches, self.stored = [self.new_cache()], None
        self.begin()

    def should_compute(self, signal: Signal) -> bool:
        """Whether the model runs in this call. The first call of a step decides for all of them.

        A call also computes if it has stored nothing, or not since the last computed step.
        """
        loop = self.loop
        if self.number == 0:
            loop.computes = self.caches[0].should_compute(signal)
        self.computed = loop.computes or self.stored is None or self.stored < loop.renewed
        if self.number == 0 and self.computed:
            loop.computes, loop.renewed = True, loop.step
        return self.computed

    def store(self, before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
        """Stores the output `after` of the model, or of its blocks, for the input `before`."""
        while len(self.caches) < len(after):
            self.caches.append(self.new_cache())
            self.caches[-1].begin_step(self.loop.step, self.loop.timestep)
        # A model may share one text between several videos: its blocks then return more rows than they get.
        for cache, x, y in zip(self.caches, before, after, strict=True):
            cache.store(x.expand_as(y), y)
        self.stored, self.shapes = self.loop.step, [y.shape for y in after]

    def reuse(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The replacement for the output of the blocks, or of the model, for the input `tensors`."""
        rows = zip(self.caches, tensors, self.shapes, strict=True)
        return [cache.reuse(x.expand(shape)) for cache, x, shape in rows]

    @property
    def bytes_held(self) -> int:
        return sum(getattr(cache, "bytes_held", 0) for cache in self.caches)

    def record(self) -> StepRecord:
        """The record of this call, with the measurements of the cache if it is the first of its step."""
        own = self.caches[0].steps[-1:] if self.number == 0 else []
        record = own[0] if own else StepRecord(self.loop.step, self.loop.timestep, None, None, None, True)
        return replace(record, computed=self.computed, bytes_held=self.loop.bytes_held)


class Loop:
    """The calls of the models from one `set_timesteps` to the next. A step ends at the first call of a model
    after one or more steps of the scheduler.

    times: the sampler's time at each evaluation; timesteps: as the scheduler has them.
    """

    def __init__(
        self,
        config: CacheConfig,
        times: Sequence[float],
        timesteps: Sequence[float],
        gather_rows: GatherRows,
        request_id: int,
    ):
        self.times, self.timesteps = tuple(times), tuple(timesteps)
        self._new_cache = lambda: start(config, self.times, gather_rows, request_id)
        self._slots: dict[tuple[int, int], tuple[Any, Slot]] = {}
        self.step, self._number, self._has_stepped = 0, 0, False
        self.computes, self.renewed = True, -1

    @property
    def timestep(self) -> float:
        return self.timesteps[self.step]

    @property
    def is_over(self) -> bool:
        """Whether all timesteps of the scheduler were evaluated; further calls compute."""
        return self.step >= len(self.times)

    @property
    def bytes_held(self) -> int:
        return sum(slot.bytes_held for _, slot in self._slots.values())

    def stepped(self) -> None:
        """Records a step of the scheduler."""
        self._has_stepped = True

    def next_slot(self, model: int, shape: Any) -> Slot | None:
        """The slot of the next call of a model, by its number in the step; None beyond the loop's end.

        shape: of the call's inputs; if it changes, a new slot is used.
        """
        if self._has_stepped:
            self.step, self._number, self._has_stepped = self.step + 1, 0, False
        number, self._number = self._number, self._number + 1
        if self.is_over or number >= MAX_CALLS:
            self._slots.clear()
            return None
        old, slot = self._slots.get((model, number), (None, None))
        if slot is None or old != shape:
            slot = Slot(self, number, self._new_cache)
            self._slots[model, number] = shape, slot
        slot.begin()
        return slot


def evaluation_times(scheduler: Any) -> tuple[list[float], list[float]]:
    """(times, timesteps) of all evaluations: noise levels of flow models, and timesteps of the others.

    Timesteps without noise at the end of a flow, which some schedulers list, are not evaluated.
    """
    timesteps = _floats(scheduler.timesteps)
    sigmas = getattr(scheduler, "sigmas", None)
    levels = [] if sigmas is None else _floats(sigmas)[: len(timesteps)]
    if len(levels) < len(timesteps) or not all(0 <= level <= 1 for level in levels):
        return timesteps, timesteps
    count = max((number for number, level in enumerate(levels, 1) if level > 0), default=0)
    return levels[:count], timesteps[:count]


def first_evaluation(timestep: Any, timesteps: Sequence[float], order: int = 1) -> int:
    """The index of the timestep that a loop begins with: video-to-video skips the first ones.

    order: of the scheduler. Those of order 2 list timesteps twice, and pipelines skip whole steps.
    """
    value = max(_floats(timestep), default=None) if timestep is not None else None
    places = [place for place, other in enumerate(timesteps) if other == value]
    whole = [place for place in places if place % order == 0]
    return next(iter([*whole, *places]), 0)


def _floats(values: Any) -> list[float]:
    return torch.as_tensor(values).detach().flatten().to("cpu", torch.float64).tolist()
