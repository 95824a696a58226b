"""PSNR, SSIM and LPIPS on a CUDA device: the numbers of the CPU."""

from __future__ import annotations

import pytest
import torch

from videosys import load_lpips, psnr, ssim

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def videos() -> tuple[torch.Tensor, torch.Tensor]:
    noise = torch.Generator().manual_seed(0)
    a, b = (torch.rand(5, 48, 64, 3, generator=noise) for _ in range(2))
    return a, 0.7 * a + 0.3 * b


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_double_precision_gives_the_same(metric):
    a, b = videos()
    made = metric(a, b, "cuda")
    assert made.device.type == "cpu"
    torch.testing.assert_close(made, metric(a, b), rtol=0, atol=1e-9)


def test_lpips_is_near(tmp_path):
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    torch.manual_seed(0)
    weights = {
        f"features.{n}.weight": torch.randn(o, i, k, k) / (i * k * k) ** 0.5
        for n, (o, i, k) in shapes.items()
    }
    weights |= {f"features.{n}.bias": torch.zeros(o) for n, (o, *_) in shapes.items()}
    torch.save(weights, tmp_path / "alexnet.pth")
    a, b = videos()
    expected = load_lpips(tmp_path / "alexnet.pth")(a, b)
    made = load_lpips(tmp_path / "alexnet.pth", device="cuda")(a, b, batch_size=2)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-7)
