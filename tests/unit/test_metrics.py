"""PSNR and SSIM: equal to scikit-image, and right where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from videosys import psnr, ssim


def clip(frames: int = 3, height: int = 40, width: int = 52, seed: int = 0) -> torch.Tensor:
    """Smooth random frames, uint8 [T, H, W, 3]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(frames, 3, 6, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def noisy(video: torch.Tensor, scale: float, seed: int = 1) -> torch.Tensor:
    noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(seed)) * scale
    return (video + noise).round().clamp(0, 255).to(torch.uint8)


def as_unit(video: torch.Tensor) -> np.ndarray:
    return video.numpy().astype(np.float64) / 255


PAIRS = [
    pytest.param(clip(), noisy(clip(), 3), id="little-noise"),
    pytest.param(clip(), noisy(clip(), 60), id="much-noise"),
    pytest.param(clip(), clip(seed=5), id="unrelated"),
    pytest.param(clip(height=11, width=11), noisy(clip(height=11, width=11), 9), id="one-window"),
    pytest.param(clip(9), noisy(clip(9), 9), id="several-pieces"),
    pytest.param(torch.full((1, 20, 20, 3), 255, dtype=torch.uint8), clip(1, 20, 20), id="constant"),
]


@pytest.mark.parametrize(("reference", "video"), PAIRS)
def test_psnr_is_that_of_scikit_image(reference, video):
    expected = [
        peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(as_unit(reference), as_unit(video))
    ]
    values = psnr(video, reference)
    assert values.dtype == torch.float64
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("reference", "video"), PAIRS)
def test_ssim_is_that_of_scikit_image(reference, video):
    expected = [
        structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=-1, data_range=1
        )
        for a, b in zip(as_unit(reference), as_unit(video))
    ]
    np.testing.assert_allclose(ssim(video, reference), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_floats_in_the_unit_range_and_arrays_are_the_same_video(metric):
    a, b = clip(), noisy(clip(), 9)
    expected = metric(b, a)
    assert torch.equal(metric(torch.from_numpy(as_unit(b)), torch.from_numpy(as_unit(a))), expected)
    assert torch.equal(metric(b.numpy(), a.numpy()), expected)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_the_order_of_the_two_does_not_matter(metric):
    a, b = clip(), noisy(clip(), 20)
    assert torch.equal(metric(a, b), metric(b, a))


def test_equal_frames_count_100_db_and_1():
    a = clip()
    b = a.clone()
    b[1] = noisy(a, 5)[1]
    values = psnr(b, a)
    assert values[0] == values[2] == 100
    assert 20 < values[1] < 50
    assert torch.allclose(ssim(a, a), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_constant_shift_has_the_psnr_of_its_square():
    a = clip().clamp(0, 245)
    values = psnr(a + 10, a)
    expected = 20 * math.log10(255 / 10)
    np.testing.assert_allclose(values, [expected] * 3, rtol=0, atol=1e-9)


def test_constant_frames_have_the_ssim_of_their_means():
    a, b = (torch.full((2, 16, 16, 3), value, dtype=torch.uint8) for value in (51, 204))
    x, y = 0.2, 0.8
    expected = (2 * x * y + 1e-4) / (x * x + y * y + 1e-4)
    np.testing.assert_allclose(ssim(a, b), [expected] * 2, rtol=0, atol=1e-9)


def test_a_moved_picture_is_less_like():
    a = clip()
    near, far = (torch.roll(a, steps, dims=2) for steps in (1, 6))
    assert (psnr(near, a) > psnr(far, a)).all()
    assert (ssim(near, a) > ssim(far, a)).all()


@pytest.mark.parametrize(("error", "expected"), [(0.0, 100.0), (5e-11, 100.0), (2e-10, 97.0)])
def test_the_psnr_of_frames_that_are_nearly_equal(error, expected):
    a = torch.full((2, 8, 8, 3), 0.5, dtype=torch.float64)
    assert psnr(a + error**0.5, a).tolist() == pytest.approx([expected] * 2, abs=0.02)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("video", "message"),
    [
        (clip(4), r"differ in size.*\(4, 40, 52, 3\).*\(3, 40, 52, 3\)"),
        (clip()[..., 0], r"must be frames \[T, H, W, C\], got \[3, 40, 52\]"),
        (clip()[:0], "must be frames"),
        (clip().to(torch.int64), "must be uint8 or floating, got torch.int64"),
        (clip().float(), r"must be in \[0, 1\], got values from .* to 2"),
        (torch.full((3, 40, 52, 3), torch.nan), r"must be in \[0, 1\]"),
        ([1, 2], "must be a tensor or an array, got list"),
    ],
)
def test_what_cannot_be_compared_is_refused(metric, video, message):
    with pytest.raises(ValueError, match=message):
        metric(video, clip())


def test_frames_below_the_window_have_no_ssim():
    small = clip(height=10, width=30)
    with pytest.raises(ValueError, match="frames are 10 x 30; SSIM needs 11 x 11"):
        ssim(small, small)
    assert (psnr(small, small) == 100).all()
