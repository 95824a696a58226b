"""The linear layers equal torch's own, whichever kernel serves."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from videosys.layers.linear import (
    OneDnnGeluLinear,
    OneDnnLinear,
    gelu_linear,
    has_epilogue,
    has_kernel,
    multiply,
)

SHAPES = [(5,), (2, 3), (2, 3, 7), (0,)]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float64: 1e-12}


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_equal_to_torch(shape, bias, dtype):
    torch.manual_seed(0)
    x = torch.randn(*shape, 16).to(dtype)
    for cls in (OneDnnLinear, OneDnnGeluLinear):
        layer = cls(16, 24, bias=bias).to(dtype)
        want = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
        want = F.gelu(want, approximate="tanh") if cls is OneDnnGeluLinear else want
        assert layer(x).dtype == dtype
        torch.testing.assert_close(layer(x).double(), want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@torch.no_grad()
def test_views_are_read_as_they_lie():
    layer, x = OneDnnLinear(16, 8), torch.randn(16, 6, 3)
    torch.testing.assert_close(layer(x.transpose(0, 2)), nn.Linear.forward(layer, x.transpose(0, 2).clone()))


@torch.no_grad()
@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_the_operator_for_compilers_is_sound(activation):
    x, weight, bias = torch.randn(2, 3, 16), torch.randn(8, 16), torch.randn(8)
    if has_kernel(x, weight):
        torch.library.opcheck(torch.ops.videosys.multiply.default, (x, weight, bias, activation))
        made = torch.ops.videosys.multiply(x, weight, bias, activation)
        assert torch.equal(made, multiply(x, weight, bias, activation))


def test_importing_it_imports_no_compiler():
    """torch's compiler takes seconds to import, at every start."""
    code = "import sys, videosys.layers.attention; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_training_goes_through_torch():
    layer, x = OneDnnGeluLinear(4, 3), torch.randn(2, 4)
    assert not has_kernel(x, layer.weight)
    layer(x).sum().backward()
    assert layer.weight.grad is not None


def test_switching_onednn_off_switches_the_kernel_off():
    layer = OneDnnLinear(4, 3).requires_grad_(False)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not has_kernel(torch.randn(2, 4), layer.weight)


@torch.no_grad()
@pytest.mark.parametrize(
    "names", [(), ("_linear_pointwise",), ("_linear_pointwise", "_is_mkldnn_bf16_supported")]
)
def test_a_torch_without_the_names_serves_too(monkeypatch, names):
    """They are not public: another version of torch may have other ones."""
    own = {name: getattr(torch.ops.mkldnn, name) for name in names if hasattr(torch.ops.mkldnn, name)}
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(**own))
    for dtype in (torch.float32, torch.bfloat16):
        layer, x = OneDnnGeluLinear(16, 8).to(dtype), torch.randn(3, 16, dtype=dtype)
        assert has_kernel(x, layer.weight) <= (len(names) > (dtype == torch.bfloat16))
        want = F.gelu(F.linear(x.double(), layer.weight.double(), layer.bias.double()), approximate="tanh")
        torch.testing.assert_close(layer(x).double(), want, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_the_state_is_that_of_a_linear_layer():
    assert OneDnnGeluLinear(4, 3).state_dict().keys() == nn.Linear(4, 3).state_dict().keys()


def test_gelu_goes_into_the_product_in_half_precision_on_a_card():
    """Estimates run the models of cards on meta, by the same choice."""
    layer = OneDnnGeluLinear(16, 24).requires_grad_(False)
    x = torch.empty(2, 3, 16, device="meta")
    for dtype, expected in ((torch.bfloat16, True), (torch.float16, True), (torch.float32, False)):
        assert has_epilogue(x.to(dtype), layer.weight.to("meta", dtype)) is expected
    assert not has_epilogue(x.bfloat16(), layer.weight.to("meta"))
    assert not has_epilogue(torch.empty(2, 16).bfloat16(), layer.weight.bfloat16())
    trained = layer.weight.to("meta", torch.bfloat16).requires_grad_()
    assert not has_epilogue(x.bfloat16(), trained)
    assert OneDnnGeluLinear(16, 24, bias=False).to("meta", torch.bfloat16)(x.bfloat16()).shape == (2, 3, 24)


@torch.no_grad()
def test_a_product_with_gelu_in_it_is_the_two_layers():
    """On a CPU the operator takes the other form of GELU, which differs by .0005 at most; see tests/gpu."""
    torch.manual_seed(0)
    layer, x = OneDnnGeluLinear(16, 24), torch.randn(2, 3, 16)
    want = F.gelu(F.linear(x, layer.weight, layer.bias), approximate="tanh")
    torch.testing.assert_close(gelu_linear(x, layer.weight, layer.bias), want, atol=6e-4, rtol=0)
