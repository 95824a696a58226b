"""CUDA graphs of the parts of a step outside the transformer's blocks.

A skipped step consists of these parts only, and launching their kernels takes longer than running them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from videosys.parallel import Parallel
from videosys.utils.logging import get_logger

T = TypeVar("T")
Run = Callable[[], Any]
Capture = Callable[[Run], tuple[Run, Any]]

PARTS = ("embed", "signal", "head")
PLAIN = (str, int, float, bool, type(None))
_LOG = get_logger("graphs")


def uses_graphs(is_wanted: bool, device: torch.device, parallel: Parallel) -> bool:
    """Whether steps use graphs. They need a CUDA device that has all tokens of a video; logs a warning
    otherwise.
    """
    can = device.type == "cuda" and parallel.sp.size == 1
    if is_wanted and not can:
        where = "a CUDA device" if device.type != "cuda" else "all tokens of a video on one device"
        _LOG.warning("cuda_graphs needs %s; steps run without graphs", where)
    return is_wanted and can


class Capturer:
    """Captures functions as CUDA graphs. The graphs share one memory pool, because they never run
    concurrently.
    """

    def __init__(self, device: torch.device):
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def __call__(self, run: Run) -> tuple[Run, Any]:
        """(function that replays the graph, result of `run`, which each replay overwrites)."""
        graph = torch.cuda.CUDAGraph()
        # Other threads may load weights meanwhile.
        place: dict[str, Any] = {"pool": self.pool, "stream": self.stream}
        with torch.cuda.graph(graph, **place, capture_error_mode="thread_local"):
            made = run()
        return graph.replay, made


class Graphed:
    """A transformer for one generation. Its parts outside the blocks run as graphs from their second call.

    It is called like the model, which stays unchanged. The graphs are freed with this object.
    """

    def __init__(self, model: Any, capture: Capture):
        self.model = model
        made: dict[int, Tensor] = {}  # outputs of graphs by id, which later graphs read
        self.embed = GraphedFunction(model.embed, capture, made)
        # Copied, because caches keep signals and predictions.
        self.signal = GraphedFunction(model.signal, capture, made, is_kept=True)
        self.head = GraphedFunction(model.head, capture, made, is_kept=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, *inputs: Any, **options: Any) -> Tensor:
        """The model's prediction."""
        return type(self.model).forward(self, *inputs, **options)


def graphed(model: Any, device: torch.device) -> Graphed:
    """A transformer on a CUDA device for one generation; see `Graphed`. ValueError for one without PARTS."""
    absent = [name for name in PARTS if not hasattr(model, name)]
    if absent:
        raise ValueError(
            f"cuda_graphs is true, but {type(model).__name__} has no {' and no '.join(absent)}; set it to "
            "false"
        )
    return Graphed(model, Capturer(device))


@dataclass(frozen=True)
class Graph:
    """A captured call. inputs: tensors that it reads. rest: other inputs, kept alive because their ids are
    part of the key.
    """

    replay: Run
    inputs: Sequence[Tensor]
    output: Any
    rest: Sequence[Any]


class GraphedFunction:
    """A function of tensors as graphs, one per combination of shapes and other inputs.

    The first call runs without a graph, because libraries initialize themselves in it.
    made: the outputs of all graphs. is_kept: whether a result is read in a later step.
    """

    def __init__(
        self, run: Callable[..., Any], capture: Capture, made: dict[int, Tensor], is_kept: bool = False
    ):
        self.run, self.capture, self.made, self.is_kept = run, capture, made, is_kept
        self.graphs: dict[Any, Graph | None] = {}

    def __call__(self, *args: Any) -> Any:
        leaves = tree_leaves(args)
        key = tuple(map(described, leaves))
        if key not in self.graphs:
            self.graphs[key] = None
            return self.run(*args)
        graph = self.graphs[key] = self.graphs[key] or self.record(args)
        pairs = [(own, given) for own, given in zip(graph.inputs, tensors_of(leaves)) if own is not given]
        if any(
            id(own) in self.made for own, _ in pairs
        ):  # the output of another graph must not be overwritten
            return self.run(*args)
        for own, given in pairs:
            own.copy_(given)
        graph.replay()
        return copied(graph.output) if self.is_kept else graph.output

    def record(self, args: Any) -> Graph:
        """Capture a call. Outputs of other graphs are read in place, other inputs from a copy."""
        leaves = tree_leaves(args)
        given = tensors_of(leaves)
        own = {id(item): item if id(item) in self.made else item.clone() for item in given}
        call = tree_map(lambda leaf: own[id(leaf)] if isinstance(leaf, Tensor) else leaf, args)
        replay, output = self.capture(lambda: self.run(*call))
        self.made.update({id(item): item for item in tensors_of(tree_leaves(output))})
        rest = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        return Graph(replay, [own[id(item)] for item in given], output, rest)


def tensors_of(leaves: Sequence[Any]) -> list[Tensor]:
    """The tensors among the leaves."""
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def described(leaf: Any) -> Any:
    """The part of a graph's key for an input: the shape of a tensor, or the value or id of anything else."""
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.dtype, leaf.device
    return leaf if isinstance(leaf, PLAIN) else id(leaf)


def copied(tree: T) -> T:
    """A nested value with copies of its tensors."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)
