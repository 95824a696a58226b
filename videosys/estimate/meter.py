"""Meters live bytes and floating-point operations of a computation.

It also counts tensors without memory, on the meta device or `pretending` to be on a CPU. So the needs of a
computation can be determined without running it.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

Scores = Callable[[torch.Tensor, torch.Tensor], int]


class Meter:
    """A context manager that counts `live` and `peak` bytes of tensors created inside, and `flops`.

    torch's attention counts as one kernel. scores: returns the temporary bytes of an attention kernel; 0 for
    a fused one. device: adds the copies that this device's kernel makes in each convolution, see `COPIED`;
    None counts no copies.
    """

    def __init__(self, device: torch.device | None = None, scores: Scores = lambda q, k: 0) -> None:
        self.copied, self.scores = COPIED.get(device.type) if device else None, scores
        self.live = self.peak = self.attention_flops = 0
        self._counter = FlopCounterMode(display=False, custom_mapping=operators())
        self._stack = ExitStack()

    @property
    def flops(self) -> int:
        """FLOPs so far, two per multiply-add."""
        return self.attention_flops + self._counter.get_total_flops()

    def __enter__(self) -> Meter:
        for mode in (self._counter, Storages(self), Attention(self)):
            self._stack.enter_context(mode)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, size: int) -> None:
        """Add this many bytes, which may be negative."""
        self.live += size
        self.peak = max(self.peak, self.live)


class Storages(TorchDispatchMode):
    """Reports every storage that an operation creates, and its release, to a meter."""

    def __init__(self, meter: Meter):
        super().__init__()
        self.meter = meter
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {id(storage) for storage in storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in storages(result):
            if id(storage) not in inputs and storage not in self.seen:
                self.seen.add(storage)
                self.meter.add(storage.nbytes())
                weakref.finalize(storage, self.meter.add, -storage.nbytes())
        if self.meter.copied is not None and func is torch.ops.aten.convolution.default:
            self.meter.peak = max(self.meter.peak, self.meter.live + self.meter.copied(args, result))
        return result


def copied(convolution: Sequence[Any], result: torch.Tensor) -> int:
    """Bytes that a convolution's kernel copies on a CPU. torch reports which kernel it uses.

    oneDNN reorders input and weight, unless the input is in a channels-last layout (which torch does not
    detect for a single sample). With AMX, a bfloat16 result is computed in an internal layout and reordered
    after input and weight are freed; a few MiB of scratch memory per thread are not counted. torch's native
    kernel, which is used for small inputs, unfolds every window into a column: 27 values per input value with
    a 3 x 3 x 3 kernel, none with 1 x 1 x 1.
    """
    x, weight, _, *options = convolution
    if goes_to_onednn(x, weight, options):
        layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
        if len(x) > 1 and x.is_contiguous(memory_format=layout):  # already channels-last
            return weight.nbytes
        results = 2 * result.nbytes if x.dtype == torch.bfloat16 and has_amx() else 0
        return max(weight.nbytes + x.nbytes, results)
    window = weight[0].numel()
    return 0 if weight[0, 0].numel() == 1 else window * result[:, 0].numel() * result.element_size()


def copied_on_cuda(convolution: Sequence[Any], result: torch.Tensor) -> int:
    """Bytes that cuDNN copies. In half precision, 3-D convolutions, and 2-D convolutions that reduce the
    number of channels, also hold input and result in another layout. With this, the peaks of all five
    decoders measured on an H100 agree within 1 %.
    """
    x, weight = convolution[:2]
    is_copied = x.ndim == 5 or weight.shape[0] < weight.shape[1]
    return x.nbytes + result.nbytes if is_copied and x.dtype.itemsize == 2 else 0


COPIED: MappingProxyType[str, Callable[[Sequence[Any], torch.Tensor], int]] = MappingProxyType(
    {"cpu": copied, "cuda": copied_on_cuda}
)


@functools.cache
def has_amx() -> bool:
    """Whether this processor has AMX for bfloat16, according to /proc/cpuinfo; false if that is missing."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False


def goes_to_onednn(x: torch.Tensor, weight: torch.Tensor, options: Sequence[Any]) -> bool:
    """Whether torch uses oneDNN for such a convolution on a CPU, queried with a private function of torch. If
    this function is missing, the answer is true wherever torch has oneDNN, as for large convolutions.
    """
    select = getattr(torch._C, "_select_conv_backend", None)
    if select is None:
        return torch.backends.mkldnn.is_available()
    with unset_fake_temporarily():  # CPU tensors of these shapes, expanded from one element
        small = [torch.empty(1, dtype=item.dtype).expand(item.shape) for item in (x, weight)]
        return not select(*small, None, *options).name.startswith("Slow")


def operators() -> dict[Any, Callable[..., int]]:
    """FLOP formulas of operators that torch's counter does not support. Some versions of torch lack some of
    them.
    """
    found: dict[Any, Callable[..., int]] = {
        getattr(torch.ops.mkldnn, "_linear_pointwise", None): linear_flops,
        getattr(torch.ops.aten, "_addmm_activation", None): product_flops,
        getattr(torch.ops.videosys, "attend_frames", None): frames_flops,
        getattr(torch.ops.videosys, "attend_tiles", None): tiles_flops,
    }
    return {operator: count for operator, count in found.items() if operator is not None}


def linear_flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """FLOPs of a linear layer, from the shapes of input and weight."""
    return 2 * math.prod(x) * weight[0]


def product_flops(bias: Sequence[int], x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """FLOPs of a matrix product with a bias, from the shapes of its two matrices."""
    return 2 * math.prod(x) * weight[1]


def frames_flops(q: Sequence[int], *_: Any, **__: Any) -> int:
    """FLOPs of attention over frames, from the shape of its queries [B, T, S, heads, d]."""
    return 4 * math.prod(q) * q[1]


def tiles_flops(q: Sequence[int], k: Sequence[int], *_: Any, **__: Any) -> int:
    """FLOPs of attention, from the shapes of its queries and keys [B, heads, tokens, d]."""
    return 4 * math.prod(q) * k[2]


def storages(tree: Any) -> Iterable[Any]:
    """The storage of every tensor in a nested value."""
    return [item.untyped_storage() for item in tree_iter(tree) if isinstance(item, torch.Tensor)]


class Attention(TorchFunctionMode):
    """Replaces attention of tensors without memory, because torch's own version would create all scores."""

    def __init__(self, meter: Meter):
        super().__init__()
        self.meter = meter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention or not (
            isinstance(args[0], FakeTensor) or args[0].is_meta
        ):
            return func(*args, **(kwargs or {}))
        q, k, v = args[:3]
        self.meter.attention_flops += 2 * q[..., 0].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        batch, heads, tokens = q.shape[:-1]
        result = q.new_empty(batch, tokens, heads, v.shape[-1])  # the memory layout that the kernels write
        self.meter.peak = max(self.meter.peak, self.meter.live + self.meter.scores(q, k))
        return result.transpose(1, 2)


def weight_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(item.nbytes for item in [*module.parameters(), *module.buffers()])


def on_meta(build: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
    """Build a module without memory, in a dtype. Parameters that its class keeps in float32 stay in
    float32.
    """
    with torch.device("meta"):
        module = build().to("meta")  # some buffers ignore the default device
    exact = getattr(type(module), "float32_parameters", ())
    for name, item in [*module.named_parameters(), *module.named_buffers()]:
        if item.is_floating_point() and name not in exact:
            item.data = item.data.to(dtype)
    return module.eval().requires_grad_(False)


@contextmanager
def pretending(module: nn.Module, device: torch.device) -> Iterator[torch.device]:
    """Yield a device on which tensors have no memory. A module on the meta device moves there, and so do all
    tensors created inside the `with` block.

    For a CPU it is a fake CPU (FakeTensorMode), so that a model takes the same code paths as on a CPU. For
    other devices it is `meta`.
    """
    if device.type != "cpu":
        yield torch.device("meta")
        return
    with FakeTensorMode():
        for part in module.modules():
            for name, item in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
                empty = torch.empty(item.shape, dtype=item.dtype)
                is_weight = isinstance(item, nn.Parameter)
                setattr(part, name, nn.Parameter(empty, requires_grad=False) if is_weight else empty)
        yield torch.device("cpu")
