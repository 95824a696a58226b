"""Linear layers that take the faster kernel on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Linear(nn.Linear):
    """nn.Linear, with oneDNN's kernel where it can serve."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not has_kernel(x, self.weight):
            return super().forward(x)
        return multiply(x, self.weight, self.bias, "none")


class GeluLinear(Linear):
    """A linear layer and GELU in its tanh form, in one kernel where there is one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not has_kernel(x, self.weight):
            return F.gelu(super().forward(x), approximate="tanh")
        return multiply(x, self.weight, self.bias, "gelu")


def multiply(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str
) -> torch.Tensor:
    """x weight^T + bias [..., out] by oneDNN, with the activation `none` or `gelu`."""
    # A compiler must not look into the kernel: it would want weights that were packed for it.
    run = torch.ops.videosys.multiply if torch.compiler.is_compiling() else kernel
    return run(x, weight, bias, activation)


def kernel(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str) -> torch.Tensor:
    algorithm = "tanh" if activation == "gelu" else ""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)


SCHEMA = "(Tensor x, Tensor weight, Tensor? bias, str activation) -> Tensor"
opaque = torch.library.custom_op("videosys::multiply", kernel, mutates_args=(), schema=SCHEMA)


@opaque.register_fake
def shape_of(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str
) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def has_kernel(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether oneDNN multiplies these: numbers on a CPU that knows their dtype, outside training.

    torch gives float32 products to MKL, which on processors of other makers is half as fast, and knows no
    product with an activation.
    """
    if x.device.type != "cpu" or x.dtype != weight.dtype or not weight.is_contiguous() or not x.numel():
        return False
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return False
    return x.dtype in kernel_dtypes()


@torch.compiler.assume_constant_result
def kernel_dtypes() -> tuple[torch.dtype, ...]:
    """The dtypes that oneDNN takes here; none where torch comes without it, or it is switched off."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return ()
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return ()
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (torch.float32, torch.bfloat16) if has_bfloat16 else (torch.float32,)
