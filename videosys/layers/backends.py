"""Softmax attention and the choice of its kernel."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from videosys.layers import kernels
from videosys.layers.linear import OPERATORS, kernel_dtypes
from videosys.utils.installed import install_command
from videosys.utils.settled import PROCESS
from videosys.utils.triton import CAN_LAUNCH

M = TypeVar("M", bound=nn.Module)
Bias = Tensor | None
Kernel = Callable[[Tensor, Tensor, Tensor, Bias], Tensor]
OldBackend = Literal["products"]  # see `canonical_backend`
AttentionBackend = Literal[
    "auto", "torch", "flash", "efficient", "cudnn", "math", "bmm", "flash_attn", "triton", OldBackend
]

SCORE_BYTES = 4 << 20  # of scores per chunk of `bmm`: they stay in the processor's cache
OPERATORS.define("attend(Tensor q, Tensor k, Tensor v, Tensor? bias) -> Tensor")


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Bias = None, backend: str = "auto") -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v of q [B, heads, n, d], k and v [B, heads, m, d]: [B, n, heads, d].

    bias: [B or 1, 1, 1, m], for prompts of several lengths; a backend without bias is replaced by torch's
    choice. backend: a key of KERNELS, or `auto` for `default_backend`.
    """
    kernel = default_backend(q) if backend == "auto" else canonical_backend(backend)
    if bias is not None and not supports_bias(kernel, q.device):
        kernel = "torch"
    return KERNELS[kernel](q, k, v, bias)


def canonical_backend(name: str) -> str:
    """The current name of an attention backend: `bmm` for its old name `products`, with a warning."""
    if name != "products":
        return name
    warnings.warn("attention 'products' is now called 'bmm'; the old name will be removed", stacklevel=2)
    return "bmm"


def supports_bias(kernel: str, device: torch.device) -> bool:
    """Whether a kernel supports a bias of the scores on such a device."""
    return kernel != "flash_attn" and (kernel != "flash" or device.type == "cpu")


def heads_first(part: Tensor) -> Tensor:
    """[batch, heads, tokens, d] of queries, keys or values [batch, tokens, ..., heads, d], without a copy.

    The dims in between are independent, so they are treated as heads.
    """
    return part.flatten(2, -2).transpose(1, 2)


def takes_frames(layer: Any, x: Tensor) -> bool:
    """Whether the kernel for few frames handles attention over the frames of tokens [B, T, S, C]."""
    is_free = getattr(layer, "uses_kernels", False) and layer.attention_backend in ("auto", "triton")
    return is_free and kernels.serves_frames(x, layer.num_heads)


def text_backend(layer: Any, q: Tensor, k: Tensor) -> str:
    """The backend for attention to the keys of a text: the tiled kernel if the keys fit into one tile."""
    is_free = layer.uses_kernels and layer.attention_backend == "auto"
    return "triton" if is_free and kernels.serves_text(q, k) else layer.attention_backend


def default_backend(q: Tensor) -> str:
    """`bmm` for bfloat16 on a CPU outside training, where it takes half the time; else torch's choice."""
    is_training = torch.is_grad_enabled() and q.requires_grad
    return "bmm" if q.device.type == "cpu" and q.dtype == torch.bfloat16 and not is_training else "torch"


def sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Bias) -> Tensor:
    """The first suitable kernel of torch: flash, memory-efficient, cuDNN's or plain, in the order
    that torch has for the device.
    """
    return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2)


def single_kernel(kernel: SDPBackend) -> Kernel:
    """One of torch's fused kernels for GPUs; RuntimeError if it does not support the inputs."""

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Bias) -> Tensor:
        # The selection applies to all threads. Two that overlap would leave a kernel disabled.
        with nullcontext() if torch.compiler.is_compiling() else PROCESS.lock, sdpa_kernel(kernel):
            return sdpa(q, k, v, bias)

    return run


fused_flash = single_kernel(SDPBackend.FLASH_ATTENTION)


def flash(q: Tensor, k: Tensor, v: Tensor, bias: Bias) -> Tensor:
    """torch's flash attention; on a CPU it is called directly, without a selection for all threads."""
    if q.device.type != "cpu":
        return fused_flash(q, k, v, bias)
    q, k, v = (part if part.stride(-1) == 1 else part.contiguous() for part in (q, k, v))
    attended = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=bias)
    return attended[0].transpose(1, 2)


def plain(q: Tensor, k: Tensor, v: Tensor, bias: Bias) -> Tensor:
    """torch's attention without a fused kernel, called directly, without a selection for all threads."""
    if q.device.type == "mps":  # torch has no other kernel there
        return sdpa(q, k, v, bias)
    return torch.ops.aten._scaled_dot_product_attention_math(q, k, v, bias)[0].transpose(1, 2)


def bmm(q: Tensor, k: Tensor, v: Tensor, bias: Bias) -> Tensor:
    """Two matrix products with a softmax between them, a few scores at a time, in the dtype of q.

    torch's kernel for CPUs multiplies tiles that are too small for bfloat16 instructions.
    """
    # Hidden from the compiler, which would unroll the loop.
    return (torch.ops.videosys.attend if torch.compiler.is_compiling() else chunked_bmm)(q, k, v, bias)


def chunked_bmm(q: Tensor, k: Tensor, v: Tensor, bias: Bias) -> Tensor:
    if q.dtype not in kernel_dtypes():  # without oneDNN, matrix products are slow
        return sdpa(q, k, v, bias).contiguous()
    batch, heads, queries, width = q.shape
    out = q.new_empty(batch, queries, heads, width)
    for rows, head, query in score_chunks(batch, heads, queries, k.shape[2] * k.element_size()):
        a, b, c = (part.flatten(0, 1) for part in (q[rows, head, query], k[rows, head], v[rows, head]))
        scores = torch.baddbmm(
            bias_of_chunk(bias, rows, len(a), a),
            a,
            b.transpose(1, 2),
            beta=bias is not None,
            alpha=width**-0.5,
        )
        heads_out = torch.bmm(scores.softmax(dim=-1), c)
        out[rows, query, head] = heads_out.unflatten(0, (-1, head.stop - head.start)).transpose(1, 2)
    return out


def bias_of_chunk(bias: Bias, rows: slice, count: int, like: Tensor) -> Tensor:
    """The bias [count, 1, m] of a chunk's samples, each repeated for its heads; [1] without a bias."""
    if bias is None:
        return like.new_empty(1)
    biases = bias[rows if len(bias) > 1 else slice(0, 1), 0]
    return biases.repeat_interleave(count // len(biases), dim=0)


def score_chunks(
    batch: int, heads: int, queries: int, row_bytes: int
) -> Iterator[tuple[slice, slice, slice]]:
    """Samples, heads and queries whose scores together are SCORE_BYTES at most, or one row of them.

    Samples are grouped only if they are small, because their heads must be copied to be contiguous.
    """
    query = num_fitting(SCORE_BYTES, row_bytes, queries)
    head = num_fitting(SCORE_BYTES, row_bytes * query, heads)
    rows = num_fitting(SCORE_BYTES // 4, row_bytes * queries * heads, batch)
    cuts = (
        [slice(start, min(start + size, whole)) for start in range(0, whole, size)]
        for size, whole in ((rows, batch), (head, heads), (query, queries))
    )
    yield from itertools.product(*cuts)  # type: ignore[misc]


def num_fitting(room: int, size: int, most: int) -> int:
    """The number of items of `size` bytes that fit into `room` bytes, from 1 to `most`."""
    return max(min(room // max(size, 1), most), 1)


def flash_attention(q: Tensor, k: Tensor, v: Tensor, bias: Bias) -> Tensor:
    """The package flash-attn, which does not support a bias."""
    from flash_attn import flash_attn_func

    return flash_attn_func(*(part.transpose(1, 2) for part in (q, k, v)))


def tiled(q: Tensor, k: Tensor, v: Tensor, bias: Bias) -> Tensor:
    """This package's tiled kernel, or torch's choice for unsupported tensors."""
    return (kernels.attend_tiles if kernels.serves_tiles(q, k) else sdpa)(q, k, v, bias)


KERNELS: MappingProxyType[str, Kernel] = MappingProxyType(
    {
        "torch": sdpa,
        "flash": flash,
        "efficient": single_kernel(SDPBackend.EFFICIENT_ATTENTION),
        "cudnn": single_kernel(SDPBackend.CUDNN_ATTENTION),
        "math": plain,
        "bmm": bmm,
        "flash_attn": flash_attention,
        "triton": tiled,
    }
)
HALF_ONLY = ("flash", "cudnn", "flash_attn", "triton")
ALLOWED: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {"cpu": ("auto", "torch", "flash", "math", "bmm"), "mps": ("auto", "torch", "math")}
)


def check_attention(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    """ValueError if the device, the dtype or the installed packages do not support a backend."""
    backend = canonical_backend(backend)
    allowed = ALLOWED.get(device.type, (backend,))
    if device.type == "cpu" and backend not in allowed:
        raise ValueError(f"attention is {backend!r}, which needs a GPU; on a CPU: {', '.join(allowed)}")
    if device.type != "cpu" and backend == "bmm":
        raise ValueError(f"attention is 'bmm', which needs a CPU; on {device.type}: auto or torch")
    if backend not in allowed:
        raise ValueError(
            f"attention is {backend!r}, which needs CUDA; on {device.type}: {', '.join(allowed)}"
        )
    if device.type != "cpu" and backend in HALF_ONLY and dtype == torch.float32:
        raise ValueError(f"attention is {backend!r}, but dtype is float32; it supports bfloat16 and float16")
    if backend in HALF_ONLY and is_before_ampere(device):
        raise ValueError(
            f"attention is {backend!r}, which needs an Ampere GPU or newer; here: auto or efficient"
        )
    if backend == "flash_attn" and find_spec("flash_attn") is None:
        raise ValueError(
            "attention is 'flash_attn', but the package flash-attn is missing: "
            f"{install_command('flash-attn')}, or set attention to auto"
        )
    if backend == "triton" and not CAN_LAUNCH:
        raise ValueError(
            "attention is 'triton', and triton 3.4 or newer, a C compiler or Python's headers are missing: "
            f"{install_command('triton')}, or set attention to auto"
        )


def is_before_ampere(device: torch.device) -> bool:
    """Whether it is a CUDA device of compute capability below 8.0."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) < (8, 0)


def use_attention(model: M, backend: str) -> M:
    """Set the attention backend of a model, which is returned; ValueError for an unknown one."""
    backend = canonical_backend(backend)
    if backend != "auto" and backend not in KERNELS:
        raise ValueError(f"attention is {backend!r}; it must be auto, {', '.join(KERNELS)}")
    for module in model.modules():
        if hasattr(module, "attention_backend"):
            module.attention_backend = backend  # type: ignore[assignment]
    return model


def shape_of(q: Tensor, k: Tensor, v: Tensor, bias: Bias) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3])


OPERATORS.impl("attend", chunked_bmm, "CPU")
OPERATORS.impl("attend", shape_of, "Meta")
