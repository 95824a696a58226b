"""Weights quantized in eight bits: how far they are off, which ones they are, and what they do to a video."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.house.test_stateless import EXAMPLES
from tests.tiny_checkpoint import build_model, config_of, text_to_video_config
from videosys import OpenSoraConfig, VideoSysEngine, load_config
from videosys.generation import loader
from videosys.layers.linear import OneDnnGeluLinear, OneDnnLinear
from videosys.layers.storage import (
    QUANTIZED,
    STORAGE,
    knows_storage,
    quantize,
    quantize_blocks,
    use_opaque_dequantize,
)
from videosys.metrics import psnr
from videosys.models.opensora.transformer import STDiT3
from videosys.text_encoders.t5 import T5Encoder
from videosys.utils.checkpoint import load_model

FP8 = {"storage_dtype": "float8_e4m3fn"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-3, 0.02, 3000.0])
def test_a_weight_comes_back_with_four_digits(dtype, size):
    weight = (torch.randn(40, 100, generator=torch.Generator().manual_seed(0)) * size).to(dtype)
    weight[3] = 0
    quantized, scale = quantize(weight)
    assert (quantized.dtype, scale.dtype) == (STORAGE, dtype)
    assert torch.equal(torch.frexp(scale.float()).mantissa, torch.full((40, 1), 0.5))  # powers of two
    back = quantized.to(dtype) * scale
    assert back.isfinite().all()
    step = torch.maximum(weight.abs().amax(dim=1, keepdim=True).float() / 2**15, torch.tensor(2.0**-23))
    error = (back.float() - weight.float()).abs()
    assert (error <= torch.maximum(weight.abs().float() / 16, step)).all()
    assert torch.equal(back[3], torch.zeros(100, dtype=dtype))


@pytest.mark.parametrize("linear_cls", [nn.Linear, OneDnnLinear, OneDnnGeluLinear])
def test_a_narrow_layer_computes_as_its_wide_one(linear_cls):
    torch.manual_seed(0)
    wide = linear_cls(24, 8).requires_grad_(False)
    made = QUANTIZED[linear_cls](wide)
    quantized, scale = quantize(wide.weight)
    wide.weight.copy_(quantized.float() * scale)
    x = torch.randn(5, 24)
    with torch.no_grad():
        assert torch.equal(made(x), wide(x))
    assert made.weight.dtype == torch.float32
    assert not any(item.requires_grad for name, item in made.named_parameters() if name != "bias")


@torch.no_grad()
def test_rocm_is_not_judged_by_the_capability_of_an_nvidia_card(monkeypatch):
    """An MI300 says 9.4."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 4))
    assert knows_storage(torch.device("cuda"))
    monkeypatch.setattr(torch.version, "hip", "6.3")
    assert not knows_storage(torch.device("cuda"))


@pytest.mark.parametrize(
    ("device", "capability", "is_opaque"),
    [("cuda", (8, 0), True), ("cuda", (8, 9), False), ("cuda", (9, 0), False), ("cpu", (), False)],
)
def test_compiled_kernels_meet_no_eight_bits_where_triton_knows_none(
    monkeypatch, device, capability, is_opaque
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    layer = QUANTIZED[OneDnnGeluLinear](OneDnnGeluLinear(24, 8).requires_grad_(False)).to(torch.bfloat16)
    x, seen = torch.randn(5, 24, dtype=torch.bfloat16), []

    def backend(graph, inputs):
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op != "placeholder")
        return graph.forward

    want = layer(x)
    compiled = torch.compile(
        use_opaque_dequantize(nn.Sequential(layer), torch.device(device)), backend=backend
    )
    assert torch.equal(compiled(x), want)
    assert ("videosys.dequantize" in seen) == is_opaque
    assert ("to" in seen) != is_opaque


def test_the_operator_for_compilers_is_sound():
    quantized, scale = quantize(torch.randn(6, 10).bfloat16())
    # The other checks compare eight-bit numbers, and cannot.
    checks = ("test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.videosys.dequantize.default, (quantized, scale), test_utils=checks)


def test_a_compiled_engine_widens_apart_on_such_cards(checkpoint, monkeypatch):
    seen = []
    monkeypatch.setattr(loader, "use_opaque_dequantize", lambda model, device: seen.append(device) or model)
    monkeypatch.setattr(loader, "check_compiler", lambda *_: None)
    config = config_of(checkpoint, device="cpu", compile="blocks", **FP8)
    with VideoSysEngine(config, quiet=True) as engine, engine.pipeline.transformer.use():
        assert seen == [torch.device("cpu")]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_layers_of_blocks_are_narrow_and_nothing_else(name):
    model, _ = EXAMPLES[name]()
    parts = dict(model.named_parameters())
    quantize_blocks(model)
    after = dict(model.named_parameters())
    changed = {key for key in parts if key not in after}
    lists = [key for key, child in model.named_children() if isinstance(child, nn.ModuleList)]
    assert changed == {
        key
        for key, item in parts.items()
        if key.split(".")[0] in lists and item.ndim == 2 and not key.endswith("scale_shift_table")
    }
    assert {item.dtype for key, item in after.items() if key.endswith(".quantized")} == {STORAGE}
    assert len([key for key in after if key.endswith(".quantized")]) == len(changed) > 0


def test_a_checkpoint_is_read_narrow(checkpoint):
    config, folder = build_model().config, checkpoint / "transformer"
    made = load_model(STDiT3, config, folder, keep=quantize_blocks)
    want = load_model(STDiT3, config, folder)
    quantize_blocks(want)
    assert list(made.state_dict()) == list(want.state_dict())
    assert all(torch.equal(a.float(), b.float()) for a, b in zip(made.parameters(), want.parameters()))
    with pytest.raises(ValueError, match="the weights do not fit"):
        load_model(STDiT3, config, checkpoint / "vae", keep=quantize_blocks)


def test_the_text_encoder_is_narrow_and_near(checkpoint):
    wide, made = T5Encoder.from_pretrained(checkpoint), T5Encoder.from_pretrained(checkpoint, **FP8)
    dtypes = {name: item.dtype for name, item in made.model.named_parameters()}
    assert {dtype for name, dtype in dtypes.items() if name.endswith(".quantized")} == {STORAGE}
    assert dtypes["shared.weight"] == torch.float32
    (one, _), (other, _) = wide(["a red circle"]), made(["a red circle"])
    assert 0 < (one - other).norm() / one.norm() < 0.05


def video(config):
    with VideoSysEngine(config, quiet=True) as engine:
        return engine.generate("a small red circle moves rightward on a white background").video[0]


def test_the_clip_of_a_trained_model_stays_near():
    """docs/performance.md tells what more clips say."""
    tiny = "examples/opensora/tiny.yaml"
    changes = ["num_inference_steps=10", "seed=1", "cache=none"]
    full, made = (
        video(load_config(OpenSoraConfig, tiny, [*changes, f"storage_dtype={dtype}"]))
        for dtype in ("auto", "float8_e4m3fn")
    )
    assert 25 < psnr(full, made).mean() < 60


def test_every_model_takes_it(random_model):
    full, made = (video(text_to_video_config(*random_model, **more)) for more in ({}, FP8))
    assert 20 < psnr(full, made).mean() < 60


def test_a_request_cannot_change_it_and_wrong_values_are_refused(checkpoint):
    with pytest.raises(ValueError, match="storage_dtype must be one of 'auto', 'float8_e4m3fn', got 'int8'"):
        config_of(checkpoint, storage_dtype="int8")
    with (
        VideoSysEngine(config_of(checkpoint), quiet=True) as engine,
        pytest.raises(ValueError, match="unknown"),
    ):
        engine.generate("a red circle", **FP8)
