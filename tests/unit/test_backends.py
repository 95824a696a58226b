"""Every kernel of attention gives the same numbers, and a choice that cannot be met is refused at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch

from tests.house.test_stateless import EXAMPLES
from tests.tiny_checkpoint import config_of
from videosys import VideoSysEngine
from videosys.layers import attention, backends, frames
from videosys.layers.backends import (
    ALLOWED,
    attend,
    check_attention,
    default_backend,
    score_chunks,
    supports_bias,
    use_attention,
)
from videosys.models.pixart import layers as pixart
from videosys.utils.settled import settled

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
# batch, heads, queries, keys, width; the last is larger than a piece of three rows
SHAPES = [(2, 3, 5, 7, 8), (5, 2, 16, 16, 24), (1, 2, 40, 40, 6)]


def heads(batch: int, count: int, tokens: int, width: int) -> torch.Tensor:
    """[batch, heads, tokens, width] as a projection lays them: by token first."""
    return torch.randn(batch, tokens, count, width).transpose(1, 2)


def plain(q, k, v, bias) -> torch.Tensor:
    scores = q.double() @ k.double().transpose(2, 3) / q.shape[-1] ** 0.5
    scores = scores if bias is None else scores + bias.double()
    return (scores.softmax(-1) @ v.double()).transpose(1, 2)


@torch.no_grad()
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("biased", [None, "shared", "own"])
@pytest.mark.parametrize("backend", ALLOWED["cpu"])
def test_every_kernel_gives_the_same_numbers(backend, biased, shape, dtype, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(backends, "SCORE_BYTES", 3 * shape[3] * dtype.itemsize)
    batch, count, queries, keys, width = shape
    q, k, v = (heads(batch, count, n, width).to(dtype) for n in (queries, keys, keys))
    bias = None
    if biased:
        masked = torch.rand(batch if biased == "own" else 1, 1, 1, keys) < 0.3
        bias = torch.where(masked, -10000.0, 0.0).to(dtype)
    made = attend(q, k, v, bias, backend)
    assert made.shape == (batch, queries, count, width)
    torch.testing.assert_close(made.double(), plain(q, k, v, bias), atol=TOLERANCE[dtype], rtol=0)


PAIRS = [("math", "math"), ("math", "torch"), ("flash", "flash"), ("flash", "math"), ("flash", "torch")]


@pytest.mark.parametrize("names", PAIRS)
@pytest.mark.parametrize("context", [nullcontext, settled], ids=["plain", "settled"])
def test_threads_with_different_kernels_do_not_affect_each_other(context, names):
    """Torch's selection of a kernel is one for all threads."""
    torch.manual_seed(0)
    q = torch.randn(2, 4, 64, 8)
    # Flash attention does not support a bias with gradients.
    bias = torch.randn(2, 1, 1, 64).requires_grad_(names[1] == "torch")
    before = torch.nn.attention._cur_sdpa_kernel_backends()
    barrier = threading.Barrier(2)

    def same(name: str, bias: torch.Tensor) -> bool:
        expected = made(name, bias)
        barrier.wait()
        return all(made(name, bias).equal(expected) for _ in range(200))

    def made(name: str, bias: torch.Tensor) -> torch.Tensor:
        with context():
            return attend(q, q, q, bias, name).detach()

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(same, names, (bias.detach(), bias)))
    assert torch.nn.attention._cur_sdpa_kernel_backends() == before


@torch.no_grad()
def test_the_operator_for_compilers_is_sound():
    q, k, v = (heads(2, 3, n, 8).bfloat16() for n in (5, 7, 7))
    bias = torch.zeros(1, 1, 1, 7).bfloat16()
    for given in (None, bias):
        torch.library.opcheck(torch.ops.videosys.attend.default, (q, k, v, given))
        assert torch.equal(torch.ops.videosys.attend(q, k, v, given), attend(q, k, v, given, "bmm"))


def test_pieces_cover_all_scores_once_and_stay_small(monkeypatch):
    monkeypatch.setattr(backends, "SCORE_BYTES", 100)
    for shape in [(3, 4, 5), (1, 1, 300), (7, 2, 3), (50, 1, 1), (0, 2, 3), (2, 2, 0)]:
        seen = torch.zeros(shape)
        for rows, head, query in score_chunks(*shape, row_bytes=10):
            piece = seen[rows, head, query]
            assert 10 * piece.numel() <= 100
            piece += 1
        assert (seen == 1).all()


def test_what_auto_takes():
    q = torch.randn(1, 1, 2, 4)
    assert default_backend(q) == default_backend(q.half()) == "torch"
    assert default_backend(q.bfloat16()) == "bmm"
    assert default_backend(q.bfloat16().requires_grad_()) == "torch"
    assert default_backend(q.bfloat16().to("meta")) == "torch"


@pytest.mark.parametrize("backend", ["flash_attn", "flash"])
def test_a_bias_that_a_kernel_does_not_know_goes_through_torch(backend):
    q, k, v = (torch.empty(1, 2, n, 8, device="meta") for n in (5, 7, 7))  # where neither kernel can run
    bias = torch.zeros(1, 1, 1, 7, device="meta")
    assert attend(q, k, v, bias, backend).shape == (1, 5, 2, 8)
    assert not supports_bias(backend, CUDA)


@pytest.mark.parametrize("backend", ["flash", "cudnn"])
def test_a_card_before_ampere_has_fewer_kernels(backend, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(ValueError, match=f"{backend}', which needs an Ampere GPU"):
        check_attention(backend, CUDA, torch.float16)
    check_attention("efficient", CUDA, torch.float16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    check_attention(backend, CUDA, torch.float16)


def test_training_goes_through_torch():
    q = torch.randn(1, 2, 3, 4).bfloat16().requires_grad_()
    attend(q, q, q).sum().backward()
    assert q.grad is not None


@pytest.mark.parametrize("backend", ["efficient", "cudnn", "flash_attn"])
def test_what_needs_a_gpu_is_refused_on_a_cpu(backend):
    with pytest.raises(ValueError, match=rf"attention is '{backend}', which needs a GPU; on a CPU: auto"):
        check_attention(backend, CPU, torch.bfloat16)


@pytest.mark.parametrize(
    ("backend", "dtype", "message"),
    [
        ("bmm", torch.bfloat16, "'bmm', which needs a CPU"),
        ("flash", torch.float32, "dtype is float32; it supports bfloat16"),
        ("cudnn", torch.float32, "dtype is float32; it supports bfloat16"),
    ],
)
def test_what_a_gpu_cannot_do_is_refused_before_loading(backend, dtype, message):
    with pytest.raises(ValueError, match=message):
        check_attention(backend, torch.device("cuda"), dtype)
    check_attention("auto", torch.device("cuda"), dtype)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -e .*\[flash-attn\]"):
        check_attention("flash_attn", CUDA, torch.bfloat16)
    with pytest.raises(ValueError, match="dtype is float32"):
        check_attention("flash_attn", CUDA, torch.float32)
    check_attention("auto", CUDA, torch.float32)


def test_the_old_name_of_a_backend_is_accepted_with_a_warning(checkpoint):
    q = torch.randn(1, 2, 3, 4)
    for use in (
        lambda name: attend(q, q, q, backend=name),
        lambda name: check_attention(name, CPU, torch.float32),
        lambda name: use_attention(attention.SelfAttention(8, 2), name),
    ):
        with pytest.warns(UserWarning, match="'products' is now called 'bmm'"):
            use("products")
    assert config_of(checkpoint, attention="products").attention in ("products", "bmm")
    with pytest.warns(UserWarning, match="bmm"):
        model = use_attention(attention.SelfAttention(8, 2), "products")
    assert model.attention_backend == "bmm"


def test_a_model_takes_the_backend_in_every_attention():
    for make in EXAMPLES.values():
        model = use_attention(make()[0], "math")
        chosen = [m.attention_backend for m in model.modules() if hasattr(m, "attention_backend")]
        assert len(chosen) >= 4
        assert set(chosen) == {"math"}
    with pytest.raises(ValueError, match=r"'fast'; it must be auto, torch, flash"):
        use_attention(model, "fast")


def test_a_config_chooses_the_backend(checkpoint):
    with pytest.raises(ValueError, match="attention is 'efficient', which needs a GPU"):
        VideoSysEngine(config_of(checkpoint, attention="efficient", device="cpu"))
    with VideoSysEngine(config_of(checkpoint, attention="math"), quiet=True) as engine:
        want = engine.generate("a red circle", seed=1, cache="none").video[0]
        with engine.pipeline.transformer.use() as model:
            assert {block.attn.attention_backend for block in model.spatial_blocks} == {"math"}
    with VideoSysEngine(config_of(checkpoint), quiet=True) as engine:
        made = engine.generate("a red circle", seed=1, cache="none").video[0]
    assert (want.int() - made.int()).abs().max() <= 1


@torch.no_grad()
def test_frames_are_attended_alike_however_they_lie(monkeypatch):
    """GPUs get tokens of a position side by side, CPUs get them as they lie."""
    torch.manual_seed(0)
    x, layers = torch.randn(2, 3, 5, 8), [attention.SelfAttention(8, 2), pixart.SelfAttention(8, 2)]
    near = [frames.temporal_attention(layer, x) for layer in layers]
    monkeypatch.setattr(frames, "reads_strided", lambda tokens: False)
    far = [frames.temporal_attention(layer, x) for layer in layers]
    for made, same, layer in zip(near, far, layers):
        torch.testing.assert_close(made, same)
        torch.testing.assert_close(made[1, :, 4], layer(x[1:, :, 4])[0])
