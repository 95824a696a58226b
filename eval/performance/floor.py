"""The floor of a forward: the time of its matrix products and attentions alone on this machine.

The calls of one forward are recorded. Each distinct shape is timed separately on contiguous tensors and
counted as often as the forward calls it. The remaining time of a forward is spent in norms, modulation,
activations, copies and launch overhead.
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
    """Counts the shapes of matrix products and of torch's attention inside the context."""

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
    """Count the calls of linear layers and attentions in a callable, by shape."""
    with Recorder() as recorder:
        run()
    return recorder.calls


def flops(shape: Shape) -> int:
    """Floating-point operations of one call, two per multiply-add."""
    if shape[0] == "linear":
        _, rows, inputs, outputs, _ = shape
        return 2 * rows * inputs * outputs
    _, batch, heads, queries, keys, width = shape
    return 4 * batch * heads * queries * keys * width


def total_flops(calls: Mapping[Shape, int], kind: str | None = None) -> int:
    """Operations of all calls, or of the calls of one kind."""
    return sum(flops(shape) * count for shape, count in calls.items() if kind in (None, shape[0]))


def replays(shape: Shape, dtype: torch.dtype, device: torch.device) -> list[Callable[[], torch.Tensor]]:
    """Calls of this shape on random tensors, one per kernel that torch has for it."""
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
    """The floor of recorded calls, measured in turns with the forward.

    `measure` runs each shape with each kernel and adds a round; the fastest kernel per shape counts. On a GPU
    each is run several times in a row, because a kernel can be shorter than its launch.
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
        """The mean speed of all calls of a kind, in operations per second."""
        chosen = {shape: count for shape, count in self.calls.items() if shape[0] == kind}
        seconds = sum(count * self.seconds_of(shape) for shape, count in chosen.items())
        return total_flops(chosen) / seconds if seconds else 0.0
