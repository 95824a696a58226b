"""Linear layers with faster kernels: oneDNN's on a CPU, one with fused activation on a GPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Not torch.library.custom_op nor torch.compiler's decorators: they import the compiler, which takes seconds.
HALF = (torch.bfloat16, torch.float16)  # on meta, these dtypes mean an estimate for a GPU
OPERATORS = torch.library.Library("videosys", "FRAGMENT")
OPERATORS.define("multiply(Tensor x, Tensor weight, Tensor? bias, str activation) -> Tensor")


class OneDnnLinear(nn.Linear):
    """nn.Linear, with oneDNN's kernel if possible."""

    activation = "none"

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight  # read once, because some subclasses compute it on each access
        # Hidden from the compiler, which would need packed weights.
        is_opaque = torch.compiler.is_compiling() and is_inference_on_cpu(x, weight)
        run = torch.ops.videosys.multiply if is_opaque else multiply
        return run(x, weight, self.bias, self.activation)


class OneDnnGeluLinear(OneDnnLinear):
    """A linear layer and GELU in its tanh form, in one kernel where there is one."""

    activation = "gelu"


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """x weight^T + bias [..., out], with the activation `none` or `gelu`, by oneDNN if possible."""
    if has_kernel(x, weight):
        algorithm = "tanh" if activation == "gelu" else ""
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)
    if bias is not None and activation == "gelu" and has_epilogue(x, weight):
        return gelu_linear(x, weight, bias)
    out = F.linear(x, weight, bias)
    return F.gelu(out, approximate="tanh") if activation == "gelu" else out


def shape_of(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    """An empty [..., out], for tensors without values."""
    return x.new_empty(*x.shape[:-1], weight.shape[0])


OPERATORS.impl("multiply", multiply, "CPU")
OPERATORS.impl("multiply", shape_of, "Meta")


def is_training(x: Tensor, weight: Tensor) -> bool:
    """Whether the gradient of a product is needed."""
    return torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)


def is_inference_on_cpu(x: Tensor, weight: Tensor) -> bool:
    """Whether the product is on a CPU and its gradient is not needed."""
    return x.device.type == weight.device.type == "cpu" and not is_training(x, weight)


def has_epilogue(x: Tensor, weight: Tensor) -> bool:
    """Whether GELU is fused into the product: in half precision on a GPU.

    There is no public function of torch for this, and its compiler does not do it: separate GELU would read
    and write the widest tensor of a block once more.
    """
    if x.device.type not in ("cuda", "meta") or x.dtype not in HALF or x.dtype != weight.dtype:
        return False
    return hasattr(torch.ops.aten, "_addmm_activation") and not is_training(x, weight)


def gelu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU of x weight^T + bias, on a GPU with the tanh approximation, as torch decomposes the operator."""
    flat = x.reshape(-1, x.shape[-1])
    out = torch.ops.aten._addmm_activation(bias, flat, weight.t(), use_gelu=True)
    return out.view(*x.shape[:-1], -1)


def has_kernel(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN multiplies these: tensors on a CPU that supports their dtype, outside training.

    torch uses MKL for float32 products, which is half as fast on other vendors' processors and has no
    product with an activation.
    """
    if not is_inference_on_cpu(x, weight) or not weight.is_contiguous() or not x.numel():
        return False
    return x.dtype == weight.dtype and x.dtype in kernel_dtypes()


def kernel_dtypes() -> tuple[torch.dtype, ...]:
    """The dtypes that oneDNN supports here; empty if torch lacks it, or it is disabled."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return ()
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return ()
    # Neither name is public. Without them, torch's default product is used.
    has_bfloat16 = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    return (torch.float32, torch.bfloat16) if has_bfloat16() else (torch.float32,)
