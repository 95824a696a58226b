"""The place of a cache in a transformer: around the whole model, or around its blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from videosys.cache.base import OUTPUT, STACK
from videosys.diffusers.blocks import (
    BlockCall,
    Blocks,
    Decide,
    Forward,
    Leaving,
    Observation,
    Template,
    Tensors,
    difference,
    rounding,
    tensors_of,
)
from videosys.diffusers.loop import Slot

AUTO = "auto"
Watched = Callable[[], Tensor]
Reuse = Callable[[Tensors], Sequence[Tensor]]


class OutputPlace:
    """Keeps the prediction, for any model. A cache decides by the noisy latents."""

    name = OUTPUT

    def run(self, forward: Forward, slot: Slot, noisy: Watched) -> Any:
        """The model's output in one call."""
        if not slot.should_compute(lambda kind: noisy()):
            return self.reused(forward, slot, slot.reuse)
        output = forward()
        self.keep(slot, forward, output)
        return output

    def keep(self, slot: Slot, forward: Forward, output: Any) -> None:
        """Keeps the prediction of a call, without the inputs that the call returned unchanged."""
        template = Template.of(output, tensors_of([forward.args, forward.keywords]))
        tensors = template.tensors(output)
        zeros = [x.new_zeros(()).expand(x.shape) for x in tensors]
        slot.form = template, zeros
        slot.store(zeros, tensors)

    def reused(self, forward: Forward, slot: Slot, reuse: Reuse) -> Any:
        """The output in a call that does not run the model."""
        assert slot.form is not None
        template, zeros = slot.form
        return template.fill(reuse(zeros))


class StackPlace:
    """Keeps the residual of all blocks. A cache decides by the input of the first attention.

    needs_order: each block's input must be the output of the previous one.
    problem: why the place cannot be used, set by the first call.
    """

    name = STACK

    def __init__(self, blocks: Blocks, needs_order: bool):
        self.blocks, self.needs_order = blocks, needs_order
        self.calls: Sequence[BlockCall] = ()  # of the blocks in one forward, set by the first call
        self.follows = True
        self.problem: str | None = None

    def run(self, forward: Forward, slot: Slot, noisy: Watched) -> Any:
        """The model's output in one call. The first call finds out whether the blocks can be skipped."""
        if not self.calls:
            return self._first(forward, slot, noisy)
        visit = Leaving(self.calls, slot.reuse, self._decision(slot, noisy))
        output = self._forward(visit, forward)
        if visit.computes:
            slot.store(self._before(forward, visit.before), visit.after)
        return output

    def reused(self, forward: Forward, slot: Slot, reuse: Reuse) -> Any:
        """The output in a call that does not run the blocks."""
        return self._forward(Leaving(self.calls, reuse), forward)

    def _forward(self, visit: Leaving, forward: Forward) -> Any:
        """The output of a forward. RuntimeError if it calls other numbers of blocks than the first one."""
        output = self.blocks.visited(visit, forward)
        if visit.count != len(self.calls):
            counts = f"{visit.count} blocks, its first call {len(self.calls)}"
            raise RuntimeError(
                f"place 'stack' is not possible: a call of the model runs {counts}; use 'output'"
            )
        return output

    def _decision(self, slot: Slot, noisy: Watched) -> Decide:
        def decide(block: nn.Module, args: tuple, kwargs: dict) -> bool:
            def signal(kind: str) -> Tensor:
                modulated = self.blocks.modulated_input(block, args, kwargs)
                return noisy() if modulated is None else modulated

            return slot.should_compute(signal)

        return decide

    def _before(self, forward: Forward, first: Tensors) -> Tensors:
        """The tensors that the residual is added to: the input of the first or of the last block."""
        if self.follows:
            return first
        visit = Leaving(self.calls, list)
        self._forward(visit, forward)
        return visit.before

    def _first(self, forward: Forward, slot: Slot, noisy: Watched) -> Any:
        observation = Observation(decide=self._decision(slot, noisy))
        output = self.blocks.visited(observation, forward)
        self.calls, self.follows, self.problem = observation.calls, observation.follows, observation.problem
        if not self.calls:
            self.problem = self.problem or "no block was called"
        elif self.needs_order and not self.follows:
            self.problem = self.problem or "a block's input is not the output of the previous block"
        if self.problem is None:
            self._check(forward, slot, output, observation)
        return output

    def _check(self, forward: Forward, slot: Slot, output: Any, observation: Observation) -> None:
        """Stores the first residual if it reproduces the output for the same input."""
        before, after = self._before(forward, observation.before), observation.after
        residuals = [y - x for x, y in zip(before, after, strict=True)]
        again = self.reused(forward, slot, lambda tensors: [x + r for x, r in zip(tensors, residuals)])
        wrong = difference(output, again)
        if wrong <= rounding(output):
            slot.store(before, after)
        else:
            self.problem = f"skipping the blocks changes the output for the same input ({wrong:.1g} of it)"
