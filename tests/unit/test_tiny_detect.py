"""The detector: right on every drawn clip, steady under blur and noise, honest about nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from eval.training.clips import ATTRIBUTES, BACKGROUNDS, ClipSpec, render, sample_spec, to_uint8
from eval.training.detect import AREAS, NONE, Detection, classify_motion, detect
from eval.training.scored import scored


def wrong(spec: ClipSpec, found: Detection) -> list[str]:
    return [name for name in ATTRIBUTES if getattr(spec, name) != getattr(found, name)]


def test_every_scored_caption_is_read_right_from_its_own_clip():
    for _, spec in scored():
        for num_frames in (17, 34):
            assert not wrong(spec, detect(to_uint8(render(spec, num_frames)))), spec


def test_random_clips_are_read_right():
    rng = np.random.default_rng(11)
    for i in range(200):
        spec = sample_spec(rng, held_out=None)
        assert not wrong(spec, detect(to_uint8(render(spec, (17, 34)[i % 2])))), spec


@pytest.mark.parametrize(("num_frames", "stride"), [(32, 2), (17, 2), (34, 4)])
def test_clips_with_fewer_frames_a_second_are_read_right(num_frames, stride):
    """32 and 2 as in Latte's clips. Without the stride, spins turn too fast and bounces end halfway."""
    rng = np.random.default_rng(5)
    specs = [spec for _, spec in scored()] + [sample_spec(rng, held_out=None) for _ in range(100)]
    for spec in specs:
        assert not wrong(spec, detect(to_uint8(render(spec, num_frames)[:, ::stride]), stride)), spec


def test_blur_and_noise_are_tolerated():
    rng = np.random.default_rng(2)
    generator = torch.Generator().manual_seed(0)
    mistakes = []
    for _ in range(40):
        spec = sample_spec(rng, held_out=None)
        clip = render(spec)
        clip = interpolate(interpolate(clip, scale_factor=0.5, mode="area"), scale_factor=2, mode="bilinear")
        clip += 0.1 * torch.randn(clip.shape, generator=generator)
        mistakes += wrong(spec, detect(to_uint8(clip)))
    assert len(mistakes) <= 2


def test_shifted_colours_are_tolerated():
    spec = ClipSpec("triangle", "purple", "olive", "large", "spin")
    assert not wrong(spec, detect(to_uint8(0.85 * render(spec) + 0.05)))


def test_larger_frames_are_measured_in_the_same_units():
    for motion in ("leftward", "bounce", "grow", "still"):
        spec = ClipSpec("cross", "cyan", "black", "small", motion)
        assert not wrong(spec, detect(to_uint8(render(spec, 34, 128))))


def test_an_empty_clip_has_a_background_and_nothing_else():
    video = torch.tensor(BACKGROUNDS["navy"], dtype=torch.uint8).expand(17, 64, 64, 3)
    assert detect(video) == Detection("navy", NONE, NONE, NONE, NONE)


def test_noise_alone_is_no_known_motion_or_an_error():
    generator = torch.Generator().manual_seed(0)
    detect(torch.randint(0, 256, (17, 64, 64, 3), generator=generator, dtype=torch.uint8))


def test_one_frame_stands_still():
    spec = ClipSpec("ring", "red", "white", "large", "still")
    assert not wrong(spec, detect(to_uint8(render(spec, 1))))


@pytest.mark.parametrize("video", [torch.zeros(17, 64, 64, 3), torch.zeros(3, 64, 64, dtype=torch.uint8)])
def test_other_layouts_are_refused(video):
    with pytest.raises(ValueError, match="uint8"):
        detect(video)


def test_opposite_motions_are_told_apart():
    area = torch.full((34,), 300.0)
    right = torch.stack([torch.linspace(20, 44, 34), torch.full((34,), 30.0)], dim=-1)
    assert classify_motion(area, right, False) == "rightward"
    assert classify_motion(area, right.flip(0), False) == "leftward"
    assert classify_motion(area, right.flip(1), True) == "downward"
    assert classify_motion(area, right[:1].expand(34, 2), True) == "spin"
    assert classify_motion(torch.linspace(200, 500, 34), right[:1].expand(34, 2), True) == "grow"


def test_areas_are_those_of_the_drawn_shapes():
    for shape, unit in AREAS.items():
        spec = ClipSpec(shape, "red", "black", "large", "still")
        red = to_uint8(render(spec, 1))[0, :, :, 0].float()
        assert float((red - 8).sum() / 207) == pytest.approx(unit * 13.5**2, rel=0.01)
