"""Linear layers whose weights are stored as 8-bit floating-point numbers and dequantized when used.

Like layerwise casting in diffusers, but modules do not change while they are used: several
threads may use one at once, and the compiler sees an ordinary multiplication. A scale per row makes the
numbers fit: without it, weights below 1/64 lose digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from videosys.layers.linear import OPERATORS, OneDnnGeluLinear, OneDnnLinear

M = TypeVar("M", bound=nn.Module)
StorageDType = Literal["auto", "float8_e4m3fn"]
Tensors = dict[str, Tensor]
STORAGE = torch.float8_e4m3fn
LARGEST = torch.finfo(STORAGE).max
FUSING = (8, 9)  # minimum compute capability of an NVIDIA GPU for this format in triton
OPERATORS.define("dequantize(Tensor quantized, Tensor scale) -> Tensor")


def check_storage(storage_dtype: StorageDType, device: torch.device) -> None:
    """ValueError if a device does not support float8_e4m3fn."""
    if storage_dtype != "auto" and device.type == "mps":
        raise ValueError(f"storage_dtype is {storage_dtype!r}, which mps does not support; use auto")


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight [out, in] in float8_e4m3fn, and the scale of each row [out, 1] in the weight's dtype.

    Scales are powers of two, so that only the 8-bit values are rounded.
    """
    size = weight.detach().float().abs().amax(dim=1, keepdim=True) / LARGEST
    least = math.frexp(torch.finfo(weight.dtype).tiny)[1]
    scale = torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent.clamp(min=least))
    return (weight.detach().float() / scale).to(STORAGE), scale.to(weight.dtype)


def dequantize(quantized: Tensor, scale: Tensor) -> Tensor:
    """The weight [out, in], in the dtype of the scale."""
    return quantized.to(scale.dtype) * scale


def knows_storage(device: torch.device) -> bool:
    """Whether triton supports this format on a GPU: NVIDIA's from Ada and Hopper on. It fails on older ones,
    and on most AMD GPUs, which have another float8 format.
    """
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= FUSING


def use_opaque_dequantize(model: M, device: torch.device) -> M:
    """Return the model. If triton does not support the format on the device, compiled graphs dequantize its
    weights with an operator that is opaque to the compiler.
    """
    is_opaque = device.type == "cuda" and not knows_storage(device)
    for part in model.modules():
        if isinstance(part, QuantizedLinear):
            part.is_opaque = is_opaque
    return model


class QuantizedLinear(nn.Linear):
    """nn.Linear with a weight that is dequantized to the dtype of the scale on each access."""

    def __init__(self, linear: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        quantized, scale = quantize(linear.weight)
        self.quantized = nn.Parameter(quantized, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.register_parameter("bias", linear.bias)
        self.is_opaque = False

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight [out, in], dequantized from its 8-bit storage on each access."""
        is_hidden = self.is_opaque and torch.compiler.is_compiling()
        return (torch.ops.videosys.dequantize if is_hidden else dequantize)(self.quantized, self.scale)


class QuantizedOneDnnLinear(QuantizedLinear, OneDnnLinear):
    """OneDnnLinear with a quantized weight."""


class QuantizedOneDnnGeluLinear(QuantizedLinear, OneDnnGeluLinear):
    """OneDnnGeluLinear with a quantized weight."""


QUANTIZED = MappingProxyType(
    {
        nn.Linear: QuantizedLinear,
        OneDnnLinear: QuantizedOneDnnLinear,
        OneDnnGeluLinear: QuantizedOneDnnGeluLinear,
    }
)


def quantize_blocks(module: nn.Module) -> Callable[[str, Tensor], Tensors]:
    """A function from the name and tensor of a checkpoint's parameter to those of the quantized module.

    The linear layers in the module's lists, its blocks, are replaced by quantized ones with the same weights,
    or without weights on the meta device. Embeddings, norms, tables and the head are small and unchanged.
    """
    names = {name: linear for name, linear in linears(module) if type(linear) in QUANTIZED}
    for name, linear in names.items():
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, QUANTIZED[type(linear)](linear))

    def split(key: str, tensor: Tensor) -> Tensors:
        owner = key.removesuffix(".weight")
        if owner == key or owner not in names:
            return {key: tensor}
        return dict(zip((f"{owner}.quantized", f"{owner}.scale"), quantize(tensor)))

    return split


def linears(module: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers in the module's lists, with their names."""
    lists = [(name, child) for name, child in module.named_children() if isinstance(child, nn.ModuleList)]
    for child, blocks in lists:
        for name, part in blocks.named_modules(prefix=child):
            if isinstance(part, nn.Linear):
                yield name, part


OPERATORS.impl("dequantize", dequantize, "CompositeExplicitAutograd")
