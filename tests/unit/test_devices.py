"""Names of devices: one parser for all fields, whose errors name the field."""

from __future__ import annotations

import pytest
import torch

from videosys import OpenSoraConfig
from videosys.cache import IntervalConfig
from videosys.cache.device import check_cache_device
from videosys.engine.build import rank_device
from videosys.generation.compile import check_compile_offload, check_compiler
from videosys.generation.config import resolve_dtype
from videosys.generation.offload import check_offload
from videosys.layers.backends import check_attention
from videosys.layers.storage import check_storage
from videosys.utils.devices import check_device, parse_device, resolve_device


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:99", "mps"])
def test_names_need_no_such_device_here(device):
    check_device(device)
    check_cache_device(device)
    if device != "auto":
        assert parse_device(device) == torch.device(device)


@pytest.mark.parametrize("device", ["", "gpu", "meta", "mps:1", "cuda:x", "cuda:-1", "xpu"])
def test_other_names_are_refused_with_the_field(device):
    for parse in (check_device, parse_device, resolve_device):
        with pytest.raises(
            ValueError, match=f"^vae.device is {device!r}; allowed: auto, cpu, cuda, cuda:N, mps$"
        ):
            parse(device, "vae.device")
    with pytest.raises(ValueError, match=f"^cache.device is {device!r}; allowed"):
        IntervalConfig(device=device)


def test_auto_is_cuda_then_mps_then_cpu(monkeypatch):
    has = {"cuda": True, "mps": True}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has["cuda"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(has["cuda"]))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has["mps"])
    assert resolve_device("auto") == torch.device("cuda")
    has["cuda"] = False
    assert resolve_device("auto") == torch.device("mps")
    assert resolve_dtype("auto", resolve_device("mps")) == torch.bfloat16
    has["mps"] = False
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"vae\.device is 'mps', but this machine"):
        resolve_device("mps", "vae.device")


MPS = torch.device("mps")
REFUSED = {
    "offload": (
        lambda: check_offload("group", MPS),
        "the device is the mps.*allowed on a mps: 'none', 'stage'",
    ),
    "compile": (lambda: check_compiler(MPS), "compile is 'blocks', which needs a CPU or a CUDA device"),
    "stage": (lambda: check_compile_offload("stage", MPS), "drops the model after each use on a mps"),
    "storage": (
        lambda: check_storage("float8_e4m3fn", MPS),
        "which mps does not support; use auto",
    ),
    "attention": (lambda: check_attention("flash", MPS, torch.bfloat16), "on mps: auto, torch, math"),
    "bmm": (lambda: check_attention("bmm", MPS, torch.bfloat16), "attention is 'bmm'"),
    "ranks": (lambda: rank_device(OpenSoraConfig(device="mps"), 0, 2), "2 processes.*auto, cuda or cpu"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_apples_device_cannot_do_is_said(name, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    run, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        run()
    assert rank_device(OpenSoraConfig(), 1, 2) == torch.device("cpu")  # one cannot be shared
    assert rank_device(OpenSoraConfig(), 0, 1) == MPS
    check_offload("stage", MPS)
    check_storage("auto", MPS)
    check_attention("auto", MPS, torch.bfloat16)


def test_a_device_that_this_machine_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ValueError, match="device is 'cuda:1', but this machine has 1 CUDA devices"):
        resolve_device("cuda:1")
