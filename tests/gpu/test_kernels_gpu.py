"""Our Triton kernels on a card at published sizes, against torch's operators, also in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from eval.performance import operations
from eval.performance.models import Setting, with_transformer
from eval.performance.plan import Plan
from eval.performance.published import Published
from eval.performance.sizes import SIZES
from tests.gpu import card
from tests.gpu.card import MODELS, ON_CARD, distance, small
from tests.gpu.test_steps_gpu import compiler
from videosys import compile_blocks, use_kernels
from videosys.cache.teacache import l1_sums
from videosys.layers.linear import OneDnnGeluLinear, has_epilogue
from videosys.utils.triton import runs_triton

pytestmark = ON_CARD
DTYPES = [torch.bfloat16, torch.float16]
MEASURED = [name for name, size in SIZES.items() if size.is_measured]


@pytest.fixture(autouse=True)
def triton():
    if not runs_triton(card.DEVICE):
        pytest.skip("triton, a C compiler or an Ampere card is missing")


def on_card(name: str, **changes) -> Setting:
    """A published size with one block of each stack."""
    setting = Published.of(SIZES[name], card.DEVICE).setting
    plan = with_transformer(setting.plan, setting.config.with_depth(1))
    return replace(setting, plan=plan, **changes)


def deep(inputs):
    """Arguments of an operator in float64."""
    if isinstance(inputs, torch.Tensor):
        return inputs.double()
    return type(inputs)(map(deep, inputs)) if isinstance(inputs, (list, tuple)) else inputs


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MEASURED)
def test_kernels_are_as_exact_as_torch(name, dtype):
    """At most 1.5 times as far from float64, in a frame of few rows: the rest is alike."""
    setting = on_card(name, dtype=dtype)
    frames, _, columns = setting.size.latents
    subject = replace(setting, size=replace(setting.size, latents=(frames, 8, columns))).subject()
    seen = operations.operations(subject)
    assert {operation.name for operation, _ in seen} >= {"modulate", "add_modulate", "_addmm_activation"}
    for operation, _ in seen:
        exact = replace(operation, args=deep(operation.args)).plain()
        plain = operations.difference(operation.plain(), exact)
        assert operations.difference(operation.kernel(), exact) < max(1.5 * plain, 1e-4), operation.name


@torch.no_grad()
@pytest.mark.parametrize("name", MEASURED)
def test_kernels_give_torchs_numbers_at_published_sizes(name):
    for operation, _ in operations.operations(on_card(name).subject()):
        assert operations.difference(operation.kernel(), operation.plain()) < 1e-2, operation.name


@torch.no_grad()
def test_places_are_counted_in_64_bits():
    """Queries, keys and values of more than 2^31 numbers."""
    qkv = torch.randn(1, 64, 12000, 3, 16, 64, device=card.DEVICE, dtype=torch.bfloat16)
    assert qkv.numel() > 1 << 31
    made = torch.ops.videosys.attend_frames(*qkv.unbind(3), [], [], 0.0)
    last = qkv[:, :, -2:]
    want = operations.plain_frames(*last.unbind(3), [], [], 0.0)
    assert distance(made[:, :, -2:], want) < 1e-2


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gelu_in_the_product_is_the_tanh_form(dtype):
    torch.manual_seed(0)
    layer = OneDnnGeluLinear(288, 1152).to(card.DEVICE, dtype).requires_grad_(False)
    x = torch.randn(2, 3, 50, 288, device=card.DEVICE, dtype=dtype)
    assert has_epilogue(x, layer.weight)
    product = F.linear(*deep((x, layer.weight, layer.bias)))
    exact, other = (F.gelu(product, approximate=form) for form in ("tanh", "none"))
    made = layer(x)
    assert distance(made, exact) < 5e-3
    if dtype == torch.float16:  # bfloat16 rounds more than the forms differ
        assert distance(made, exact) < distance(made, other)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32], ids=str)
def test_teacache_decides_by_the_sums_of_the_rule(dtype):
    torch.manual_seed(0)
    current, previous = (torch.randn(2, 15, 1590, 1152, device=card.DEVICE).to(dtype) for _ in range(2))
    assert l1_sums(current, previous) == pytest.approx(l1_sums(current.cpu(), previous.cpu()), rel=1e-12)


@torch.no_grad()
@pytest.mark.timeout(600)
@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("model", MODELS)
def test_a_model_gives_the_same_numbers_with_and_without_kernels(model, is_compiled):
    subject = small(model).subject()
    use_kernels(subject.model, "none", card.DEVICE)
    want = subject.step()
    use_kernels(subject.model, "auto", card.DEVICE)
    if is_compiled:
        compiler()
        compile_blocks(subject.model)
    assert distance(subject.step(), want) < 2e-2


@torch.no_grad()
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kernels", ["none", "auto"])
@pytest.mark.parametrize("latents", [(15, 60, 106), (15, 60, 104), (15, 90, 160)])
def test_open_sora_compiles_at_its_published_sizes(latents, kernels):
    """Two samples of these sizes read outside a buffer whose strides the compiler had padded."""
    compiler()
    setting = on_card("opensora-51x480x848", kernels=kernels)
    subject = replace(setting, size=replace(setting.size, latents=latents)).subject()
    want = subject.step()
    compile_blocks(subject.model)
    assert distance(subject.step(), want) < 1e-2


@torch.no_grad()
@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", MODELS)
def test_the_benchmark_of_the_kernels_runs(model):
    rows = list(operations.operation_rows({}, small(model).subject(), Plan(card.DEVICE, 1)))
    assert rows
    for row in rows:
        assert row["kernel_ms"] > 0
        assert row["difference"] < 2e-2
