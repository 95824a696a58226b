"""Names of devices: one parser for all fields, whose errors name the field."""

from __future__ import annotations

import pytest
import torch

from videosys.cache import IntervalConfig
from videosys.cache.device import check_cache_device
from videosys.utils.devices import check_device, parse_device, resolve_device


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:99"])
def test_names_need_no_such_device_here(device):
    check_device(device)
    check_cache_device(device)
    if device != "auto":
        assert parse_device(device) == torch.device(device)


@pytest.mark.parametrize("device", ["", "gpu", "meta", "mps", "cuda:x", "cuda:-1"])
def test_other_names_are_refused_with_the_field(device):
    for parse in (check_device, parse_device, resolve_device):
        with pytest.raises(ValueError, match=f"^vae.device is {device!r}; allowed: auto, cpu, cuda, cuda:N$"):
            parse(device, "vae.device")
    with pytest.raises(ValueError, match=f"^cache.device is {device!r}; allowed"):
        IntervalConfig(device=device)


def test_a_device_that_this_machine_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ValueError, match="device is 'cuda:1', and this machine has 1 CUDA devices"):
        resolve_device("cuda:1")
