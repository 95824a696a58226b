"""Linear layers whose weights are kept as eight-bit floating-point numbers and made wider when they are used.

What diffusers does with hooks (layerwise casting), without a module that changes while it is used: several
threads may use one at once, and a compiler sees an ordinary multiplication. A scale for each row makes the
numbers fit: cast as they are, weights below 1/64 lose their digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Literal, TypeVar

import torch
from torch import nn

from videosys.layers.linear import OPERATORS, GeluLinear, Linear

M = TypeVar("M", bound=nn.Module)
StorageDType = Literal["auto", "float8_e4m3fn"]
Tensors = dict[str, torch.Tensor]
STORAGE = torch.float8_e4m3fn
LARGEST = torch.finfo(STORAGE).max
FUSING = (8, 9)  # the capability of a GPU from which triton knows such numbers
OPERATORS.define("widen(Tensor kept, Tensor scale) -> Tensor")


def narrow(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight [out, in] in eight bits, and what its rows are to be multiplied with, [out, 1]: powers of two,
    so that nothing but the eight bits rounds.
    """
    size = weight.detach().float().abs().amax(dim=1, keepdim=True) / LARGEST
    least = math.frexp(torch.finfo(weight.dtype).tiny)[1]
    scale = torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent.clamp(min=least))
    return (weight.detach().float() / scale).to(STORAGE), scale.to(weight.dtype)


def widen(kept: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The weight [out, in] again, in the dtype of the scale."""
    return kept.to(scale.dtype) * scale


def widen_apart(model: M, device: torch.device) -> M:
    """The model itself, whose weights are widened beside compiled kernels where these cannot do it: on GPUs
    before Ada and Hopper a compiler ends with an error at such numbers, and torch's own kernels do not.
    """
    is_apart = device.type == "cuda" and torch.cuda.get_device_capability(device) < FUSING
    for part in model.modules():
        if isinstance(part, NarrowLinear):
            part.is_apart = is_apart
    return model


class NarrowLinear(nn.Linear):
    """nn.Linear; its weight is made anew, in the dtype of the scale, whenever it is read."""

    def __init__(self, linear: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        kept, scale = narrow(linear.weight)
        self.kept = nn.Parameter(kept, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.register_parameter("bias", linear.bias)
        self.is_apart = False

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        is_opaque = self.is_apart and torch.compiler.is_compiling()
        return (torch.ops.videosys.widen if is_opaque else widen)(self.kept, self.scale)


class NarrowFastLinear(NarrowLinear, Linear):
    """Linear with such a weight."""


class NarrowGeluLinear(NarrowLinear, GeluLinear):
    """GeluLinear with such a weight."""


NARROW = MappingProxyType({nn.Linear: NarrowLinear, Linear: NarrowFastLinear, GeluLinear: NarrowGeluLinear})


def keep_narrow(module: nn.Module) -> Callable[[str, torch.Tensor], Tensors]:
    """What the tensor of a checkpoint is called in the module from now on, and made into.

    The linear layers in the module's lists, its blocks, are replaced by narrow ones with the same weights, or
    with none on the meta device. Embeddings, norms, tables and the head stay as they are: they are small.
    """
    names = {name: linear for name, linear in linears(module) if type(linear) in NARROW}
    for name, linear in names.items():
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, NARROW[type(linear)](linear))

    def split(key: str, tensor: torch.Tensor) -> Tensors:
        owner = key.removesuffix(".weight")
        if owner == key or owner not in names:
            return {key: tensor}
        return dict(zip((f"{owner}.kept", f"{owner}.scale"), narrow(tensor)))

    return split


def linears(module: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers in the module's lists, with their names."""
    lists = [(name, child) for name, child in module.named_children() if isinstance(child, nn.ModuleList)]
    for child, blocks in lists:
        for name, part in blocks.named_modules(prefix=child):
            if isinstance(part, nn.Linear):
                yield name, part


OPERATORS.impl("widen", widen, "CompositeExplicitAutograd")
