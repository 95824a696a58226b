"""This package's Triton kernels, and the conditions for their use.

Each replaces several passes of torch's operators over memory by one. `use_kernels` enables them in a model
on a GPU; a layer then checks here whether there is one for its tensors, and otherwise uses torch's
operators: in float32, in training, at unusual widths. For the compiler each is one operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from videosys.layers.linear import OPERATORS
from videosys.utils.triton import runs_triton

M = TypeVar("M", bound=nn.Module)
Kernels = Literal["auto", "none"]
Pair = Sequence[Tensor]  # (q, k) or (cosines, sines); empty for none

DTYPES = (torch.bfloat16, torch.float16)
DEVICES = ("cuda", "meta")  # estimates for a GPU run on meta
MOST_FRAMES = 64  # scores of this number of frames fit into a program's registers
MOST_TEXT = 128  # maximum text tokens in one tile
HEADS = range(16, 129, 8)  # supported head widths: rows are multiples of 16 bytes
WIDTHS = range(64, 8193, 8)  # supported token widths

SCHEMAS = MappingProxyType(
    {
        "attend_frames": "(Tensor q, Tensor k, Tensor v, Tensor[] weights, Tensor[] table, float eps)"
        " -> Tensor",
        "attend_tiles": "(Tensor q, Tensor k, Tensor v, Tensor? bias) -> Tensor",
        "norm_rotate": "(Tensor q, Tensor k, Tensor[] weights, Tensor[] table, float eps, int group)"
        " -> (Tensor, Tensor)",
        "modulate": "(Tensor x, Tensor shift, Tensor scale, float eps) -> Tensor",
        "add_modulate": "(Tensor x, Tensor y, Tensor? gate, Tensor shift, Tensor scale, float eps)"
        " -> (Tensor, Tensor)",
    }
)


def use_kernels(model: M, choice: Kernels, device: torch.device) -> M:
    """Enable these kernels in a model, which is returned: `auto` if they run on the device,
    `none` never.
    """
    for module in model.modules():
        if hasattr(module, "uses_kernels"):
            module.uses_kernels = choice == "auto" and runs_triton(device)  # type: ignore[assignment]
    return model


def serves(*tensors: Tensor) -> bool:
    """Whether the kernels support such tensors."""
    x = tensors[0]
    if x.device.type not in DEVICES or x.dtype not in DTYPES or not x.numel():
        return False
    return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))


def serves_frames(x: Tensor, num_heads: int) -> bool:
    """Whether one kernel handles attention over the frames of tokens [B, T, S, C], in their layout."""
    return serves(x) and x.ndim == 4 and x.shape[1] <= MOST_FRAMES and x.shape[3] // num_heads in HEADS


def serves_tiles(q: Tensor, k: Tensor) -> bool:
    """Whether the tiled kernel supports attention of q [B, heads, n, d] to keys [B, heads, m, d]."""
    return serves(q, k) and q.shape[-1] in HEADS and q.dtype == k.dtype


def serves_text(q: Tensor, k: Tensor) -> bool:
    """Whether it does, and all keys fit into one tile."""
    return serves_tiles(q, k) and k.shape[2] <= MOST_TEXT


def serves_heads(q: Tensor, k: Tensor) -> bool:
    """Whether queries and keys [..., heads, d] are normalized and rotated in one kernel."""
    return serves(q, k) and q.shape[-1] in HEADS and q.shape == k.shape


def serves_modulation(x: Tensor, shift: Tensor, scale: Tensor) -> bool:
    """Whether tokens [B, T, S, C] are modulated by vectors [B, 1 or T, 1, C] in one kernel."""
    if x.ndim != 4 or x.shape[3] not in WIDTHS or not serves(x, shift, scale):
        return False
    batch, frames, _, width = x.shape
    return shift.shape == scale.shape and shift.shape in ((batch, 1, 1, width), (batch, frames, 1, width))


def attend_frames(parts: Sequence[Tensor], weights: Pair = (), table: Pair = (), eps: float = 0.0) -> Tensor:
    """Attention over frames of queries, keys and values [B, T, S, heads, d]: [B, T, S, heads, d], contiguous.

    weights: [d] of RMS norms of q and k before it. table: cosines and sines [T, d/2] of interleaved pairs.
    """
    return torch.ops.videosys.attend_frames(*parts, list(weights), list(table), eps)


def attend_tiles(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v of q [B, heads, n, d], k and v [B, heads, m, d], and a bias
    [B or 1, 1, 1, m]: [B, n, heads, d], contiguous.
    """
    return torch.ops.videosys.attend_tiles(q, k, v, bias)


def norm_rotate(
    parts: Sequence[Tensor], weights: Pair = (), table: Pair = (), eps: float = 0.0, group: int = 1
) -> tuple[Tensor, Tensor]:
    """Queries and keys [..., heads, d] after RMS norms and rotation; contiguous.

    table: cosines and sines [positions, ..., d/2], of all tokens of a sample in order. group: the distance
    between the two numbers of a pair; pairs are in groups of 2 * group numbers.
    """
    return torch.ops.videosys.norm_rotate(*parts, list(weights), list(table), eps, group)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LN(x) * (1 + scale) + shift of tokens [B, T, S, C] and vectors [B, 1 or T, 1, C]."""
    return torch.ops.videosys.modulate(x, shift, scale, eps)


def add_modulate(
    x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x + gate * y, and its modulation."""
    return torch.ops.videosys.add_modulate(x, y, gate, shift, scale, eps)


def like(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def like_two(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return like(x), like(x)


def like_tokens_first(q: Tensor, *_: object) -> Tensor:
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], q.shape[3])


def launched(name: str) -> Callable[..., Any]:
    """The function of `launch` for an operator, imported on the first call: importing triton is slow.

    Triton launches on the current device, so this is made the device of the first tensor.
    """

    def run(*inputs: Any) -> Any:
        launch = import_module(f"{__name__}.launch")
        with torch.cuda.device_of(inputs[0]):
            return getattr(launch, name)(*inputs)

    return run


for _name, _schema in SCHEMAS.items():
    OPERATORS.define(_name + _schema)
    OPERATORS.impl(_name, launched(_name), "CompositeExplicitAutograd")
    _shape: Callable[..., Any] = like_two if _schema.endswith(")") else like
    OPERATORS.impl(_name, like_tokens_first if _name == "attend_tiles" else _shape, "Meta")
