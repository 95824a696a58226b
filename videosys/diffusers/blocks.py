"""Observes the inputs and outputs of a transformer's blocks, and runs a forward without the blocks.

A forward in which every block returns its own input costs only the layers before and after the blocks, and
passes to the last block the tensor that the blocks' residual is added to.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from videosys.diffusers.swaps import Swapped

Forward = functools.partial  # of a model's call, with its arguments
Decide = Callable[[nn.Module, tuple, dict], bool]  # (first block, its arguments) -> whether the blocks run
Visit = Callable[[int, nn.Module, Callable[..., Any], tuple, dict], Any]
Tensors = list[Tensor]


def block_lists(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model, from its module lists named "blocks" or "layers", without text refiners."""
    names = [
        name
        for name, child in model.named_children()
        if isinstance(child, nn.ModuleList)
        and ("block" in name or name == "layers")
        and not ("refin" in name or name.startswith("text_"))
    ]
    return [block for name in names for block in getattr(model, name)]


def tensors_of(output: Any) -> Tensors:
    """The tensors in the output of a module."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


@dataclass(frozen=True)
class Template:
    """The form of a module's output: a tensor, a tuple, or an output object of diffusers."""

    leaves: tuple[Any, ...]  # with None in place of tensors
    spec: Any
    places: tuple[int, ...]  # of the tensors among the leaves

    @classmethod
    def of(cls, output: Any, given: Sequence[Tensor] = ()) -> Template:
        """The form of an output. given: inputs that are returned unchanged, such as a key-value cache."""
        leaves, spec = pytree.tree_flatten(output)
        known = {id(x) for x in given}
        places = tuple(i for i, x in enumerate(leaves) if isinstance(x, Tensor) and id(x) not in known)
        return cls(tuple(None if i in places else leaf for i, leaf in enumerate(leaves)), spec, places)

    def tensors(self, output: Any) -> Tensors:
        """The tensors of an output of this form."""
        leaves = pytree.tree_leaves(output)
        return [leaves[place] for place in self.places]

    def fill(self, tensors: Sequence[Tensor]) -> Any:
        """An output of this form with these tensors."""
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        return pytree.tree_unflatten(leaves, self.spec)


@dataclass(frozen=True)
class BlockCall:
    """One call of a block in a forward. keys: for each returned tensor, the argument that it replaces."""

    keys: tuple[int | str, ...]
    template: Template

    def inputs(self, args: tuple, kwargs: dict) -> Tensors:
        """The arguments that the returned tensors replace."""
        return [args[key] if isinstance(key, int) else kwargs[key] for key in self.keys]


@dataclass
class Observation:
    """Observes one forward, without changes, to find how the blocks are connected.

    decide: called with the first block; must return True.
    follows: whether each block receives the same tensor objects that the previous one returned.
    problem: why the blocks cannot be skipped, or None.
    before, after: inputs of the first block, outputs of the last one.
    """

    decide: Decide
    calls: list[BlockCall] = field(default_factory=list)
    follows: bool = True
    problem: str | None = None
    before: Tensors = field(default_factory=list)
    after: Tensors = field(default_factory=list)

    def __call__(
        self, index: int, block: nn.Module, run: Callable[..., Any], args: tuple, kwargs: dict
    ) -> Any:
        if index == 0:
            self.decide(block, args, kwargs)
        output = run(*args, **kwargs)
        tensors = tensors_of(output)
        keys = matching(args, kwargs, tensors)
        if keys is None:
            self.problem = f"{type(block).__name__} returns a tensor whose shape differs from all its inputs"
            return output
        call = BlockCall(keys, Template.of(output))
        inputs = call.inputs(args, kwargs)
        self.before = self.before or inputs
        if self.calls:
            same = len(inputs) == len(self.after) and all(x is y for x, y in zip(inputs, self.after))
            self.follows = self.follows and same
        self.calls.append(call)
        self.after = tensors
        return output


@dataclass
class Leaving:
    """Runs the blocks of one forward, or skips them.

    reuse: maps the last block's inputs to its outputs if the blocks are skipped. decide: None skips them.
    before: inputs of the first block, or of the last one if the blocks were skipped. after: outputs of the
        last block, empty if the blocks were skipped.
    """

    calls: Sequence[BlockCall]
    reuse: Callable[[Tensors], Sequence[Tensor]]
    decide: Decide | None = None
    computes: bool = False
    count: int = 0
    before: Tensors = field(default_factory=list)
    after: Tensors = field(default_factory=list)

    def __call__(
        self, index: int, block: nn.Module, run: Callable[..., Any], args: tuple, kwargs: dict
    ) -> Any:
        self.count += 1
        if index >= len(self.calls):
            return run(*args, **kwargs)
        call, is_last = self.calls[index], index == len(self.calls) - 1
        if index == 0 and self.decide is not None:
            self.computes = self.decide(block, args, kwargs)
        inputs = call.inputs(args, kwargs)
        if index == 0 or (is_last and not self.computes):
            self.before = inputs
        if self.computes:
            output = run(*args, **kwargs)
            self.after = tensors_of(output) if is_last else []
            return output
        return call.template.fill(self.reuse(inputs) if is_last else inputs)


def matching(args: tuple, kwargs: dict, outputs: Sequence[Tensor]) -> tuple[int | str, ...] | None:
    """For each output, the first unused argument with its shape; None if an output has none."""
    free: dict[int | str, Any] = {**dict(enumerate(args)), **kwargs}
    keys = []
    for output in outputs:
        fitting = (key for key, x in free.items() if isinstance(x, Tensor) and x.shape == output.shape)
        key = next(fitting, None)
        if key is None:
            return None
        keys.append(key)
        del free[key]
    return tuple(keys) or None


class Blocks:
    """The blocks of one transformer. While their classes are swapped, their calls are handled by `called`."""

    def __init__(self, blocks: Sequence[nn.Module]):
        self.blocks = list(blocks)
        # Only during a forward: between forwards, hooks of diffusers look up the classes of blocks.
        self._swapped = Swapped(self.blocks, {"__call__": self.called})
        self._own = threading.local()  # visit and index, so that other threads run normal forwards

    def called(self, block: nn.Module, run: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """The handler of a block's call."""
        visit: Visit | None = getattr(self._own, "visit", None)
        if visit is None:
            return run(*args, **kwargs)
        self._own.index += 1
        return visit(self._own.index - 1, block, run, args, kwargs)

    @contextlib.contextmanager
    def _visiting(self, visit: Visit | None) -> Iterator[None]:
        outer = dict(vars(self._own))
        self._own.visit, self._own.index = visit, 0
        try:
            yield
        finally:
            vars(self._own).update({"visit": None, **outer})

    def visited(self, visit: Visit | None, forward: Forward) -> Any:
        """The output of a forward whose block calls are handled by `visit`."""
        with self._swapped.active(), self._visiting(visit):
            return forward()

    def modulated_input(self, block: nn.Module, args: tuple, kwargs: dict) -> Tensor | None:
        """The modulated input of the first attention of a block; None if the block has no attention.

        The block runs uncompiled, up to this attention.
        """
        found: Tensors = []
        own = threading.get_ident()

        def stop(module: nn.Module, inputs: tuple, named: dict) -> None:
            if threading.get_ident() != own:
                return  # a pipeline that shares the model
            found.append(named["hidden_states"] if "hidden_states" in named else inputs[0])
            raise Reached

        attentions = [each for each in block.modules() if "Attention" in type(each).__name__]
        with contextlib.ExitStack() as hooks, self._visiting(None), contextlib.suppress(Reached):
            for module in attentions:
                hooks.callback(module.register_forward_pre_hook(stop, with_kwargs=True).remove)
            if attentions:
                block.forward(*args, **kwargs)
        return found[0] if found else None


class Reached(Exception):
    """The first attention of a block was reached."""


def difference(output: Any, other: Any) -> float:
    """The largest difference between two outputs, as a share of the largest value."""
    pairs = [(x, y) for x, y in zip(tensors_of(output), tensors_of(other), strict=True) if x.numel()]
    largest = max(float(x.abs().max()) for x, _ in pairs)
    return max(float((x.float() - y.float()).abs().max()) for x, y in pairs) / max(largest, 1e-30)


def rounding(output: Any) -> float:
    """The relative rounding error of subtracting and adding a residual, as a share of the largest value."""
    return max(5e-7, 4 * max(torch.finfo(x.dtype).eps for x in tensors_of(output)))
