"""Settings of decoders: the order of channels, compiling, and chunks for which the host does not wait."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.standin import stand_in
from tests.tiny_checkpoint import VAE, config_of
from tests.unit.test_standin_device import AUTOENCODERS
from videosys import VideoSysEngine
from videosys.generation import compile as compiling
from videosys.generation.compile import (
    CompiledDecoder,
    check_compiler,
    compile_decoders,
    compiles_blocks,
    compiles_decoder,
)
from videosys.generation.loader import Loader
from videosys.layers.autoencoder import use_channels_last
from videosys.models.opensora.autoencoder import OpenSoraVAE

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def made(name: str):
    torch.manual_seed(0)
    vae = AUTOENCODERS[name]().eval().requires_grad_(False)
    return vae, torch.randn(1, 4, *vae.latent_size(5, 32, 32))


@pytest.mark.parametrize("name", AUTOENCODERS)
@torch.no_grad()
def test_channels_side_by_side_give_the_same_frames(name):
    vae, latents = made(name)
    frames = torch.randn(1, 3, 5, 32, 32)
    moments = vae.encode(frames)
    want, keys = vae.decode(latents, 5), list(vae.state_dict())
    use_channels_last(vae)
    torch.testing.assert_close(vae.decode(latents, 5), want, atol=1e-5, rtol=1e-5)
    again = vae.encode(frames)
    if isinstance(moments, torch.Tensor):
        torch.testing.assert_close(again, moments, atol=1e-5, rtol=1e-5)
    else:
        torch.testing.assert_close(again.mean, moments.mean, atol=1e-5, rtol=1e-5)
    assert list(vae.state_dict()) == keys
    for weight in vae.parameters():
        assert weight.ndim not in FORMATS or weight.is_contiguous(memory_format=FORMATS[weight.ndim])


@pytest.mark.parametrize("name", AUTOENCODERS)
@torch.no_grad()
def test_decoders_do_the_work_of_decoding(name):
    """All convolutions of the way back are in them, but the first pointwise one of some."""
    vae, latents = made(name)
    seen = []
    for module in vae.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            module.register_forward_hook(lambda module, *_: seen.append(module))
    vae.decode(latents, 5)
    inside = {part for decoder in vae.decoders for part in decoder.modules()}
    assert seen
    assert {module.kernel_size[-1] for module in seen if module not in inside} <= {1}


@pytest.mark.parametrize("name", ["opensora", "latte temporal", "v110"])
@torch.no_grad()
def test_a_compiled_decoder_has_a_graph_for_each_size(name, monkeypatch):
    """The compiler itself is left out: what it would be given runs as it is."""
    sizes = []
    monkeypatch.setattr(compiling.torch, "compile", lambda run, **options: sizes.append(options) or run)
    vae, latents = made(name)
    want = vae.decode(latents, 5)
    assert compile_decoders(vae) is vae
    assert torch.equal(vae.decode(latents, 5), want)
    first = len(sizes)
    assert first >= len(vae.decoders)
    vae.decode(latents, 5)
    assert len(sizes) == first
    vae.decode(torch.randn(1, 4, *vae.latent_size(5, 40, 32)), 5)
    assert len(sizes) > first
    assert all(options == {"dynamic": False, "options": dict(compiling.OPTIONS)} for options in sizes)
    assert all(isinstance(decoder.forward, CompiledDecoder) for decoder in vae.decoders)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["opensora", "v120 tiled"])
@torch.no_grad()
def test_a_compiled_decoder_gives_the_same_frames(name):
    try:
        check_compiler(torch.device("cpu"))
    except ValueError as error:
        pytest.skip(str(error))
    vae, latents = made(name)
    # In float64, because these random weights amplify the rounding of float32 to 2e-5, also eagerly.
    vae, latents = vae.double(), latents.double()
    want = vae.decode(latents, 5)
    use_channels_last(vae)
    compile_decoders(vae)
    torch.testing.assert_close(vae.decode(latents, 5), want, atol=1e-9, rtol=1e-9)


def test_an_autoencoder_without_decoders_is_refused():
    with pytest.raises(ValueError, match="Linear defines no decoders"):
        compile_decoders(nn.Linear(2, 2))


def test_what_each_value_of_compile_compiles():
    values = {value: (compiles_blocks(value), compiles_decoder(value)) for value in ("none", "blocks")}
    values |= {value: (compiles_blocks(value), compiles_decoder(value)) for value in ("decoder", "all")}
    assert values == {
        "none": (False, False),
        "blocks": (True, False),
        "decoder": (False, True),
        "all": (True, True),
    }


@pytest.mark.parametrize("value", ["decoder", "all"])
def test_the_loader_applies_the_settings(value, checkpoint, monkeypatch):
    done: list[str] = []
    names = ("compile_blocks", "compile_decoders", "use_channels_last")
    for name in names:
        monkeypatch.setattr(
            f"videosys.generation.loader.{name}", lambda model, name=name: done.append(name) or model
        )
    config = config_of(checkpoint, compile=value, vae_channels_last=True, num_frames=1)
    with VideoSysEngine(dataclasses.replace(config, num_inference_steps=1), quiet=True) as engine:
        engine.generate("a small red circle spins")
    assert sorted(done) == sorted(names if value == "all" else names[1:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "mps"}, "compile is 'decoder', which needs a CPU or a CUDA device"),
        ({"offload": "stage"}, "compile is 'decoder', but offload 'stage'"),
    ],
)
def test_what_cannot_be_compiled_is_refused_by_its_value(changes, message, checkpoint):
    config = config_of(checkpoint, compile="decoder", **changes)
    with stand_in("mps", (torch.float64,)) if "device" in changes else torch.no_grad():
        loader = Loader(config)
        with pytest.raises(ValueError, match=message):
            loader._check_compile()


class Waits(TorchDispatchMode):
    """Counts what a host would wait for: numbers that it reads, and copies to its memory."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        device = (kwargs or {}).get("device")
        is_read = func is torch.ops.aten._local_scalar_dense.default
        is_back = func is torch.ops.aten._to_copy.default and device is not None
        self.count += is_read or (is_back and torch.device(device).type == "cpu")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", AUTOENCODERS)
@torch.no_grad()
def test_chunks_are_queued_without_a_wait(name):
    """A card has the next chunk before it is done with the last one."""
    vae, latents = made(name)
    done: list[int] = []
    with Waits() as waits:
        vae.decode(latents, 5, done.append)
    assert sum(done) == 5
    assert waits.count == 0


def test_a_wait_would_be_seen():
    with Waits() as waits:
        torch.ones(1).item()
    assert waits.count == 1


def test_the_temporal_stage_is_a_decoder_too():
    assert len(OpenSoraVAE(VAE).decoders) == 2
