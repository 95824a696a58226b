"""The meter counts where names of torch that are not public are gone, and what kernels of our own do."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from tests.tiny_checkpoint import config_of
from tests.unit.test_estimate import LARGE, stages
from videosys.estimate.meter import Meter
from videosys.layers import kernels

NAME = "_select_conv_backend"
X, WEIGHT = torch.empty(1, 8, 64, 64, device="meta"), torch.empty(8, 8, 3, 3, device="meta")
ORDERED, COLUMNS = X.nbytes + WEIGHT.nbytes, 9 * X.nbytes


@pytest.mark.parametrize(
    ("kernel", "has_onednn", "copied"),
    [("Mkldnn", True, ORDERED), ("Slow2d", True, COLUMNS), (None, True, ORDERED), (None, False, COLUMNS)],
)
def test_what_a_convolution_copies(monkeypatch, kernel, has_onednn, copied):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: has_onednn)
    if kernel is None:
        monkeypatch.delattr(torch._C, NAME)
    else:
        monkeypatch.setattr(torch._C, NAME, lambda *_: SimpleNamespace(name=kernel))
    with Meter(torch.device("cpu")) as meter:
        F.conv2d(X, WEIGHT, padding=1)
    assert meter.peak == X.nbytes + copied


def test_kernels_of_a_card_are_counted_where_it_runs_them(checkpoint, monkeypatch):
    """The same operations in less memory: what lies between torch's operators is not written."""
    config = config_of(checkpoint, **LARGE, device="cuda", dtype="bfloat16")
    plain = stages(config)["transformer"]
    monkeypatch.setattr(kernels, "runs_triton", lambda device: True)
    assert stages(replace(config, kernels="none"))["transformer"] == plain
    monkeypatch.setattr(kernels, "HEADS", range(1, 129))
    monkeypatch.setattr(kernels, "WIDTHS", range(1, 8193))
    fused = stages(config)["transformer"]
    assert fused.flops == plain.flops
    assert fused.weights == plain.weights
    assert fused.peak < plain.peak
