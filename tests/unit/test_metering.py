"""The meter counts where names of torch that are not public are gone, too."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from videosys.estimate.meter import Meter

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
    with Meter(is_cpu=True) as meter:
        F.conv2d(X, WEIGHT, padding=1)
    assert meter.peak == X.nbytes + copied
