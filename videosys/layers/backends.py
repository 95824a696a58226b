"""Softmax attention, and which kernel does it: chosen here, and nowhere else."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import MappingProxyType
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from videosys.layers.linear import OPERATORS, kernel_dtypes

M = TypeVar("M", bound=nn.Module)
Bias = torch.Tensor | None
Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Bias], torch.Tensor]
AttentionBackend = Literal["auto", "torch", "flash", "efficient", "cudnn", "math", "products", "flash_attn"]

SCORE_BYTES = 4 << 20  # of scores that `products` makes at once: they stay in a processor's cache
OPERATORS.define("attend(Tensor q, Tensor k, Tensor v, Tensor? bias) -> Tensor")


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: Bias = None, backend: str = "auto"
) -> torch.Tensor:
    """softmax(q k^T / sqrt(d) + bias) v of q [B, heads, n, d], k and v [B, heads, m, d]: [B, n, heads, d].

    bias: [B or 1, 1, 1, m]. backend: a key of KERNELS, or `auto`, which takes what `best` says. Torch chooses
    where there is a bias that the backend does not know: prompts of several lengths bring one.
    """
    kernel = best(q) if backend == "auto" else backend
    if bias is not None and not knows_bias(kernel, q.device):
        kernel = "torch"
    return KERNELS[kernel](q, k, v, bias)


def knows_bias(kernel: str, device: torch.device) -> bool:
    return kernel != "flash_attn" and (kernel != "flash" or device.type == "cpu")


def heads_first(part: torch.Tensor) -> torch.Tensor:
    """[batch, heads, tokens, d] of queries, keys or values [batch, tokens, ..., heads, d], as they lie.

    Each head of each of what stands between stands alone, as heads do: they count as heads.
    """
    return part.flatten(2, -2).transpose(1, 2)


def best(q: torch.Tensor) -> str:
    """Products for bfloat16 on a CPU outside training, where they take half the time; else torch's choice."""
    is_training = torch.is_grad_enabled() and q.requires_grad
    return "products" if q.device.type == "cpu" and q.dtype == torch.bfloat16 and not is_training else "torch"


def by_torch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: Bias) -> torch.Tensor:
    """The first of torch's kernels that can serve: flash, memory-efficient, cuDNN's or plain, in the order
    that torch has for the device.
    """
    return F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2)


def only(kernel: SDPBackend) -> Kernel:
    """One of torch's kernels; a RuntimeError where it cannot serve."""

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: Bias) -> torch.Tensor:
        with sdpa_kernel(kernel):
            return by_torch(q, k, v, bias)

    return run


def by_products(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: Bias) -> torch.Tensor:
    """Two matrix products with a softmax between them, a few scores at a time, in the dtype of q.

    torch's kernel for CPUs multiplies tiles that are too small for bfloat16 instructions.
    """
    # A compiler must not look in: it would unroll the loop.
    return (torch.ops.videosys.attend if torch.compiler.is_compiling() else products)(q, k, v, bias)


def products(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: Bias) -> torch.Tensor:
    if q.dtype not in kernel_dtypes():  # without oneDNN products are slow
        return by_torch(q, k, v, bias).contiguous()
    batch, heads, queries, width = q.shape
    out = q.new_empty(batch, queries, heads, width)
    for rows, head, query in pieces(batch, heads, queries, k.shape[2] * k.element_size()):
        a, b, c = (part.flatten(0, 1) for part in (q[rows, head, query], k[rows, head], v[rows, head]))
        scores = torch.baddbmm(
            piece_of(bias, rows, len(a), a), a, b.transpose(1, 2), beta=bias is not None, alpha=width**-0.5
        )
        made = torch.bmm(scores.softmax(dim=-1), c)
        out[rows, query, head] = made.unflatten(0, (-1, head.stop - head.start)).transpose(1, 2)
    return out


def piece_of(bias: Bias, rows: slice, count: int, like: torch.Tensor) -> torch.Tensor:
    """The bias [count, 1, m] of a piece's samples, each repeated for its heads; [1] where there is none."""
    if bias is None:
        return like.new_empty(1)
    chosen = bias[rows if len(bias) > 1 else slice(0, 1), 0]
    return chosen.repeat_interleave(count // len(chosen), dim=0)


def pieces(batch: int, heads: int, queries: int, row_bytes: int) -> Iterator[tuple[slice, slice, slice]]:
    """Samples, heads and queries whose scores together are SCORE_BYTES at most, or one row of them.

    Samples go together only where they are small: their heads must be copied to lie one after the other.
    """
    query = fitting(SCORE_BYTES, row_bytes, queries)
    head = fitting(SCORE_BYTES, row_bytes * query, heads)
    rows = fitting(SCORE_BYTES // 4, row_bytes * queries * heads, batch)
    cuts = (
        [slice(start, min(start + size, whole)) for start in range(0, whole, size)]
        for size, whole in ((rows, batch), (head, heads), (query, queries))
    )
    yield from itertools.product(*cuts)  # type: ignore[misc]


def fitting(room: int, size: int, most: int) -> int:
    """How many of `most` things of a size there is room for: one at least."""
    return max(min(room // max(size, 1), most), 1)


def by_flash_attn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: Bias) -> torch.Tensor:
    """The package flash-attn, which knows no bias."""
    from flash_attn import flash_attn_func

    return flash_attn_func(*(part.transpose(1, 2) for part in (q, k, v)))


KERNELS: MappingProxyType[str, Kernel] = MappingProxyType(
    {
        "torch": by_torch,
        "flash": only(SDPBackend.FLASH_ATTENTION),
        "efficient": only(SDPBackend.EFFICIENT_ATTENTION),
        "cudnn": only(SDPBackend.CUDNN_ATTENTION),
        "math": only(SDPBackend.MATH),
        "products": by_products,
        "flash_attn": by_flash_attn,
    }
)
HALF_ONLY = ("flash", "cudnn", "flash_attn")
ON_CPU = ("auto", "torch", "flash", "math", "products")


def check_attention(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    """ValueError where the device, the dtype or the packages installed are not for a backend."""
    if device.type == "cpu" and backend not in ON_CPU:
        raise ValueError(f"attention is {backend!r}, which needs a GPU; on a CPU: {', '.join(ON_CPU)}")
    if device.type != "cpu" and backend == "products":
        raise ValueError(f"attention is 'products', which is for a CPU; on {device.type}: auto or torch")
    if device.type != "cpu" and backend in HALF_ONLY and dtype == torch.float32:
        raise ValueError(f"attention is {backend!r}, and dtype is float32; it knows bfloat16 and float16")
    if backend in HALF_ONLY and is_before_ampere(device):
        raise ValueError(
            f"attention is {backend!r}, which needs an Ampere card or newer; here: auto or efficient"
        )
    if backend == "flash_attn" and find_spec("flash_attn") is None:
        raise ValueError(
            "attention is 'flash_attn', and the package flash-attn is missing: "
            "pip install 'videosys[flash-attn]', or set attention to auto"
        )


def is_before_ampere(device: torch.device) -> bool:
    if device.type != "cuda" or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) < (8, 0)


def use_attention(model: M, backend: str) -> M:
    """The model itself, whose attentions go by a backend from now on."""
    if backend != "auto" and backend not in KERNELS:
        raise ValueError(f"attention is {backend!r}; it must be auto, {', '.join(KERNELS)}")
    for module in model.modules():
        if hasattr(module, "attention_backend"):
            module.attention_backend = backend  # type: ignore[assignment]
    return model


def shape_of(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: Bias) -> torch.Tensor:
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3])


OPERATORS.impl("attend", products, "CPU")
OPERATORS.impl("attend", shape_of, "Meta")
