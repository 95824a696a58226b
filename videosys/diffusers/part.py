"""One model of a pipeline, with the place of its cache."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from videosys.cache import StepRecord
from videosys.cache.base import OUTPUT, STACK
from videosys.diffusers.blocks import Blocks, Forward, block_lists
from videosys.diffusers.checks import is_compiled, is_sharded
from videosys.diffusers.loop import Loop, Slot
from videosys.diffusers.places import AUTO, OutputPlace, StackPlace
from videosys.utils.logging import get_logger

_LOG = get_logger("diffusers")
Place = OutputPlace | StackPlace
Watch = Callable[[Slot, Place, Forward, Any], None]


class Session(Protocol):
    """The interface of `CachedRun` for its models."""

    watch: Watch | None

    @property
    def is_active(self) -> bool: ...

    @property
    def steps(self) -> list[StepRecord]: ...

    def loop(self, model: nn.Module, timestep: Any) -> Loop: ...


class Part:
    """One model of a pipeline, its blocks, and the place of its cache."""

    def __init__(self, session: Session, number: int, model: nn.Module, place: str):
        self.session, self.number = session, number
        inner = getattr(model, "_orig_mod", model)
        self._parameters = inspect.signature(type(inner).forward)
        self._channels = _channels(inner)
        why_not = self._why_no_stack(model)
        if place == STACK and why_not:
            raise ValueError(f"place 'stack' is not possible: {why_not}; use 'output'")
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
            return f"the blocks of {name} have only a rank's share of the tokens"
        return None if block_lists(model) else f"{name} has no list of blocks"

    def called(self, model: nn.Module, call: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """The handler of the model's call."""
        forward = functools.partial(call, *args, **kwargs)
        if not self.session.is_active or writes_state(kwargs):
            return forward()
        bound = self._parameters.bind_partial(model, *args, **kwargs)
        # Wrappers of models have no named parameters; their keywords are in `bound.kwargs`.
        tensors = [value for value in (*bound.args, *bound.kwargs.values()) if isinstance(value, Tensor)]
        noisy = tensors[0]
        loop = self.session.loop(model, {**bound.arguments, **bound.kwargs}.get("timestep"))
        slot = loop.next_slot(self.number, [(x.shape, x.dtype, x.device) for x in tensors])
        if slot is None:
            record = StepRecord(loop.step, float("nan"), None, None, None, True)
            self.session.steps.append(record)
            return forward()
        watched = functools.partial(self._noisy, noisy)
        output = self.place.run(forward, slot, watched)
        self._settle(slot, forward, watched, output)
        self.session.steps.append(slot.record())
        if self.session.watch is not None and slot.computed:
            self.session.watch(slot, self.place, forward, output)
        return output

    def _noisy(self, x: Tensor) -> Tensor:
        """The noisy channels of a model's input, as a copy: pipelines may write into it later."""
        channels_in, channels_out = self._channels
        has_more = x.ndim == 5 and x.shape[1] == channels_in and channels_out < channels_in
        return (x[:, :channels_out] if has_more else x).detach().clone()

    def _settle(self, slot: Slot, forward: Forward, noisy: Callable[[], Tensor], output: Any) -> None:
        """Switches to the model's output if the first call has found that the blocks cannot be skipped."""
        problem = getattr(self.place, "problem", None)
        if problem is None:
            return
        if self.is_sure:
            raise ValueError(f"place 'stack' is not possible: {problem}; use 'output'")
        _LOG.info("the cache keeps the model's output: %s", problem)
        self.place = OutputPlace()
        slot.restart()
        slot.should_compute(lambda kind: noisy())
        self.place.keep(slot, forward, output)


def writes_state(kwargs: Mapping[str, Any]) -> bool:
    """Whether a call fills a key-value cache of the model, which later calls read."""
    flag = kwargs.get("kv_cache_flag")
    return isinstance(flag, Mapping) and bool(flag.get("is_cache_step"))


def _channels(model: nn.Module) -> tuple[int, int]:
    """(channels in, channels out), 0 if the model's config has none."""
    config = getattr(model, "config", None)
    values = [getattr(config, name, None) for name in ("in_channels", "out_channels")]
    first, last = (value if isinstance(value, int) else 0 for value in values)
    return first, last or first
