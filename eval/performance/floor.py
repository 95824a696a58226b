"""The floor of a forward: its matrix products and attentions alone, at the speed this machine has in them.

The calls of one forward are written down, each distinct shape is run again by itself on contiguous tensors,
and its time counts as often as the forward calls it. What a forward takes beyond that is everything else:
norms, modulation, activations, copies, and the way from call to call.
"""

from __future__ import annotations

import functools
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from eval.performance.timing import counted
from videosys import attend

GPU_CALLS = 10
Shape = tuple[Any, ...]  # ("linear", rows, in, out, bias) or ("attention", batch, heads, queries, keys, d)


class Recorder(TorchDispatchMode):
    """Counts the shapes of matrix products and of torch's attentions that run inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Shape] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        if name == "_linear_pointwise":
            x, weight, bias = args[:3]
            outputs, inputs = weight.shape
            self.calls["linear", x.numel() // inputs, inputs, outputs, bias is not None] += 1
        elif name in ("addmm", "mm", "_addmm_activation"):
            x, weight = args[-2:]
            inputs, outputs = weight.shape
            self.calls["linear", x.shape[0], inputs, outputs, name != "mm"] += 1
        elif name.startswith("_scaled_dot_product"):
            q, k = args[:2]
            batch, heads, queries, width = q.shape
            self.calls["attention", batch, heads, queries, k.shape[2], width] += 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def record(run: Callable[[], object]) -> Counter[Shape]:
    """How often a callable calls linear layers and attentions of each shape."""
    with Recorder() as recorder:
        run()
    return recorder.calls


def flops(shape: Shape) -> int:
    """Floating-point operations of one call, two per multiply and add."""
    if shape[0] == "linear":
        _, rows, inputs, outputs, _ = shape
        return 2 * rows * inputs * outputs
    _, batch, heads, queries, keys, width = shape
    return 4 * batch * heads * queries * keys * width


def total_flops(calls: Mapping[Shape, int], kind: str | None = None) -> int:
    """Operations of all calls, or of those of one kind."""
    return sum(flops(shape) * count for shape, count in calls.items() if kind in (None, shape[0]))


def replays(shape: Shape, dtype: torch.dtype, device: torch.device) -> list[Callable[[], torch.Tensor]]:
    """One call of that shape on random tensors, by each kernel that torch has for it."""
    make: dict[str, Any] = {"dtype": dtype, "device": device}
    if shape[0] == "attention":
        _, batch, heads, queries, keys, width = shape
        q = torch.randn(batch, heads, queries, width, **make)
        k, v = (torch.randn(batch, heads, keys, width, **make) for _ in range(2))
        backends = ("torch", "bmm") if device.type == "cpu" else ("torch",)
        return [functools.partial(attend, q, k, v, None, name) for name in backends]
    _, rows, inputs, outputs, has_bias = shape
    x, weight = torch.randn(rows, inputs, **make), torch.randn(outputs, inputs, **make)
    bias = torch.randn(outputs, **make) if has_bias else None
    made: list[Callable[[], torch.Tensor]] = [lambda: F.linear(x, weight, bias)]
    if device.type == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        made.append(lambda: torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))
    return made


class Floor:
    """The floor of recorded calls, as a callable that takes turns with the forward itself.

    `measure` runs each shape by each kernel and adds a round; the faster kernel of a shape counts. On a GPU
    that is several times in a row: its kernels are shorter than the way to them.
    """

    def __init__(self, calls: Mapping[Shape, int], dtype: torch.dtype, device: torch.device):
        self.calls, self.in_a_row = dict(calls), GPU_CALLS if device.type == "cuda" else 1
        self._runs = {shape: replays(shape, dtype, device) for shape in calls}
        self._times: dict[Shape, list[list[float]]] = {
            shape: [[] for _ in runs] for shape, runs in self._runs.items()
        }

    @torch.no_grad()
    def measure(self) -> None:
        for shape, runs in self._runs.items():
            for run, times in zip(runs, self._times[shape]):
                times.append(counted(run, self.in_a_row))

    def seconds_of(self, shape: Shape) -> float:
        return min(statistics.median(times) for times in self._times[shape])

    @property
    def seconds(self) -> float:
        return sum(count * self.seconds_of(shape) for shape, count in self.calls.items())

    def peak(self, kind: str) -> float:
        """The speed of all calls of a kind together, in operations per second."""
        chosen = {shape: count for shape, count in self.calls.items() if shape[0] == kind}
        seconds = sum(count * self.seconds_of(shape) for shape, count in chosen.items())
        return total_flops(chosen) / seconds if seconds else 0.0
