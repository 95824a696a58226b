"""Times each of this package's kernels, as a step calls it, against torch's operators (eager and compiled)
and a lower bound.

The bound is the larger of two times: the operations at the peak rate of matrix products, and the bytes that
must be read and written once at the memory bandwidth. torch's operators are written as in the layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from eval.performance.models import Subject
from eval.performance.plan import Plan, Row
from eval.performance.timing import Run, alternate

TFLOPS = 790.0  # of an H200 in bfloat16, measured in matrix products
TERABYTES = 3.35  # per second, memory bandwidth of an H100 according to its data sheet
CALLS = 10  # in a row, because a kernel can be shorter than its launch
Operator = Callable[..., Any]


def rotated(x: Tensor, table: Sequence[Tensor], group: int) -> Tensor:
    """Apply rotary embeddings to [..., positions, heads, d]; the elements of a pair are `group` apart."""
    near, far = x.float().unflatten(-1, (-1, 2, group)).unbind(-2)
    cos, sin = (part.reshape(len(part), 1, -1, group) for part in table)
    return torch.stack((near * cos - far * sin, near * sin + far * cos), -2).flatten(-3).to(x.dtype)


def plain_heads(
    q: Tensor, k: Tensor, weights: Sequence[Tensor], table: Sequence[Tensor], eps: float, group: int
) -> tuple[Tensor, ...]:
    """Queries and keys [..., positions, heads, d], normalized and rotated."""
    if weights:
        q, k = (F.rms_norm(part, part.shape[-1:], eps=eps) * each for part, each in zip((q, k), weights))
    return (rotated(q, table, group), rotated(k, table, group)) if table else (q, k)


def plain_frames(
    q: Tensor, k: Tensor, v: Tensor, weights: Sequence[Tensor], table: Sequence[Tensor], eps: float
) -> Tensor:
    """Temporal attention on [B, T, S, heads, d]; torch's attention needs the tokens of a head contiguous."""
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    q, k = plain_heads(q, k, weights, table, eps, 1)
    out = F.scaled_dot_product_attention(*(part.transpose(2, 3).flatten(0, 1) for part in (q, k, v)))
    return out.unflatten(0, q.shape[:2]).permute(0, 3, 1, 2, 4).contiguous()


def plain_tiles(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention on [B, n, heads, d]."""
    return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).contiguous()


def plain_modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Tokens [B, T, S, C], normalized and modulated."""
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift


def plain_add(
    x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, ...]:
    """(x + gate * y, the same normalized and modulated)."""
    total = x + (y if gate is None else gate * y)
    return total, plain_modulate(total, shift, scale, eps)


def plain_gelu(bias: Tensor, x: Tensor, weight: Tensor, use_gelu: bool = True) -> Tensor:
    """x @ weight + bias, followed by GELU (tanh approximation)."""
    return F.gelu(torch.addmm(bias, x, weight), approximate="tanh")


# Operator name -> equivalent with the same arguments. The last one is torch's own operator.
PLAIN: Mapping[str, Operator] = MappingProxyType(
    {
        "attend_frames": plain_frames,
        "attend_tiles": plain_tiles,
        "norm_rotate": plain_heads,
        "modulate": plain_modulate,
        "add_modulate": plain_add,
        "_addmm_activation": plain_gelu,
    }
)


@dataclass(frozen=True)
class Operation:
    """A kernel with the arguments of a call."""

    name: str
    operator: Operator
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def kernel(self) -> Any:
        """The result of the kernel."""
        return self.operator(*self.args, **self.kwargs)

    def plain(self, run: Operator | None = None) -> Any:
        """The result of torch's operators, or of `run` with the same arguments."""
        return (run or PLAIN[self.name])(*self.args, **self.kwargs)

    @property
    def sizes(self) -> tuple[Any, ...]:
        """The shapes of the tensors, which distinguish calls."""
        leaves = tree_leaves((self.args, dict(self.kwargs)))
        return tuple(tuple(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor))

    @property
    def bound(self) -> float:
        """The lower bound in seconds."""
        read = tensors((self.args, dict(self.kwargs)))
        moved = sum(item.numel() * item.element_size() for item in [*read, *tensors(self.kernel())])
        return max(self.flops / TFLOPS, moved / TERABYTES) / 1e12

    @property
    def flops(self) -> int:
        """Operations of its matrix products."""
        if self.name == "attend_frames":
            return 4 * self.args[0].numel() * self.args[0].shape[1]
        if self.name == "attend_tiles":
            return 4 * self.args[0].numel() * self.args[1].shape[2]
        return 2 * self.args[1].numel() * self.args[2].shape[1] if self.name == "_addmm_activation" else 0


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in a nested value."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


class Calls(TorchDispatchMode):
    """Keeps the first call of each operator of PLAIN per size, and counts the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[tuple[Any, ...], Operation] = {}
        self.counts: Counter[tuple[Any, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        if name in PLAIN:
            operation = Operation(name, func, args, kwargs or {})
            key = (name, operation.sizes)
            self.seen.setdefault(key, operation)
            self.counts[key] += 1
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def operations(subject: Subject) -> list[tuple[Operation, int]]:
    """The kernels that a step calls, once per size, each with its number of calls."""
    with Calls() as calls:
        subject.step()
    return [(operation, calls.counts[key]) for key, operation in calls.seen.items()]


@torch.no_grad()
def operation_rows(head: Row, subject: Subject, plan: Plan) -> Iterator[Row]:
    """One row per kernel that a step calls. difference: relative difference from torch's operators."""
    for operation, count in operations(subject):
        runs: dict[str, Run] = {"kernel": operation.kernel, "torch": operation.plain}
        if plan.compile and plan.can_compile:
            runs["compiled"] = compiled(operation)
        samples = alternate({name: in_a_row(run) for name, run in runs.items()}, plan.rounds)
        row: Row = {**head, "operation": operation.name, "tokens": list(operation.sizes[0]), "calls": count}
        row |= {f"{name}_ms": 1e3 * samples[name].seconds / CALLS for name in runs}
        row |= {"bound_ms": 1e3 * operation.bound}
        row |= {"kernel_over_bound": row["kernel_ms"] / row["bound_ms"]}
        yield row | {"difference": difference(operation.kernel(), operation.plain())}


def compiled(operation: Operation) -> Run:
    """torch's operators of a call, compiled like the blocks."""
    run = torch.compile(PLAIN[operation.name], dynamic=False, options={"comprehensive_padding": False})
    return lambda: operation.plain(run)


def difference(made: Any, want: Any) -> float:
    """The largest relative difference of two results."""
    pairs = [(a.double(), b.double()) for a, b in zip(tensors(made), tensors(want))]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def in_a_row(run: Run) -> Run:
    """A callable that runs `run` CALLS times."""

    def repeated() -> None:
        for _ in range(CALLS):
            run()

    return repeated
