"""The procedural clips: what is drawn is what the spec says, and the same in 17 and in 34 frames."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from eval.training.captions import caption
from eval.training.clips import (
    BACKGROUNDS,
    COLOURS,
    FPS,
    FULL_FRAMES,
    HELD_OUT_PAIRS,
    MOTIONS,
    ROUND_SHAPES,
    SHAPES,
    SIZES,
    TRANSLATIONS,
    ClipSpec,
    coverage,
    path,
    render,
    render_batch,
    sample_spec,
    to_uint8,
)
from videosys import tiny
from videosys.tiny import words
from videosys.tiny.words import TEMPLATES, WORDS


def specs(count: int, seed: int = 0) -> list[ClipSpec]:
    rng = np.random.default_rng(seed)
    return [sample_spec(rng, held_out=None) for _ in range(count)]


def test_render_has_the_promised_shape_range_and_colours():
    spec = ClipSpec("square", "orange", "navy", "large", "still")
    clip = render(spec)
    assert clip.shape == (3, 34, 64, 64)
    assert clip.dtype == torch.float32
    assert clip.abs().max() <= 1
    video = to_uint8(clip)
    assert video.shape == (34, 64, 64, 3)
    assert tuple(video[0, 0, 0].tolist()) == BACKGROUNDS["navy"]
    assert tuple(video[0, 31, 31].tolist()) == COLOURS["orange"]


def test_short_clip_is_the_first_half_and_batches_change_nothing():
    some = specs(12)
    batch = render_batch(some)
    for spec, clip in zip(some, batch, strict=True):
        assert torch.equal(clip, render(spec))
        assert torch.equal(clip[:, :17], render(spec, 17))


def test_no_object_ever_touches_the_border():
    extremes = [
        ClipSpec(shape, "red", "white", "large", motion, phase, x, y)
        for shape in SHAPES
        for motion in MOTIONS
        if motion != "spin" or shape not in ROUND_SHAPES
        for phase, x, y in ((0.0, -1.0, 1.0), (1.0, 1.0, -1.0))
    ]
    paths = torch.from_numpy(np.stack([path(spec) for spec in extremes]))
    alpha = coverage([spec.shape for spec in extremes], paths)
    assert not alpha[..., [0, -1], :].any()
    assert not alpha[..., :, [0, -1]].any()


@pytest.mark.parametrize(
    ("motion", "axis", "sign"),
    [("rightward", 0, 1), ("leftward", 0, -1), ("downward", 1, 1), ("upward", 1, -1)],
)
def test_translations_cross_much_of_the_frame_at_constant_speed(motion, axis, sign):
    for size, least in (("small", 34), ("large", 26)):
        steps = sign * np.diff(path(ClipSpec("cross", "red", "white", size, motion)), axis=0)[:, axis]
        assert steps.sum() > least
        assert np.allclose(steps, steps[0], atol=1e-4)


def test_frame_size_scales_the_same_picture():
    spec = ClipSpec("ring", "pink", "olive", "large", "upward", x=0.4)
    small, big = render(spec, 3, 64), render(spec, 3, 128)
    shrunk = torch.nn.functional.avg_pool2d(big, 2)
    assert (small - shrunk).abs().mean() < 0.01


def test_held_out_pairs_are_kept_apart():
    rng = np.random.default_rng(1)
    assert len(HELD_OUT_PAIRS) == 4
    assert not any(sample_spec(rng).is_held_out for _ in range(500))
    assert all(sample_spec(rng, held_out=True).is_held_out for _ in range(50))
    assert {spec.is_held_out for spec in specs(300)} == {True, False}


def test_sampling_is_reproducible_and_reaches_every_value():
    assert specs(20, seed=3) == specs(20, seed=3)
    seen = set().union(*(spec.attributes for spec in specs(400)))
    assert seen == {*SHAPES, *COLOURS, *BACKGROUNDS, "small", "large", *MOTIONS}


@pytest.mark.parametrize(
    "change",
    [{"shape": "star"}, {"colour": "brown"}, {"background": "red"}, {"size": "huge"}, {"motion": "jump"}],
)
def test_unknown_attribute_is_named(change):
    spec = ClipSpec("circle", "red", "white", "small", "still")
    with pytest.raises(ValueError, match=next(iter(change.values()))):
        dataclasses.replace(spec, **change)


def test_invisible_spin_is_refused():
    with pytest.raises(ValueError, match="spin"):
        ClipSpec("ring", "red", "white", "small", "spin")


def test_captions_use_only_listed_words_and_tell_every_attribute():
    rng = np.random.default_rng(0)
    for spec in specs(300):
        words = caption(spec, rng).rstrip(".").split()
        assert set(words) <= set(WORDS)
        assert {spec.shape, spec.colour, spec.background, spec.size} <= set(words)
    example = ClipSpec("circle", "red", "white", "small", "rightward")
    assert caption(example) == "a small red circle moves rightward on a white background"
    assert len({caption(example, rng) for _ in range(100)}) == len(TEMPLATES)


def test_captions_of_different_attributes_differ():
    some = {spec.attributes: caption(spec) for spec in specs(1000)}
    assert len(set(some.values())) == len(some)


def test_bounce_comes_back_and_stays_slow_enough_for_the_autoencoder():
    for size in ("small", "large"):
        y = path(ClipSpec("circle", "red", "white", size, "bounce", phase=0.0, y=-1.0), 35)[:, 1]
        assert np.isclose(y[0], y[17], atol=1e-4)
        assert np.isclose(y[0], y[34], atol=1e-4)
        assert y[0] - y.min() > 14
        assert np.abs(np.diff(y)).max() < 5


def test_what_is_drawn_is_what_a_prompt_may_name():
    tables = {"COLOURS": COLOURS, "BACKGROUNDS": BACKGROUNDS, "SIZES": SIZES}
    assert {name: tuple(table) for name, table in tables.items()} == {n: getattr(words, n) for n in tables}
    assert {*TRANSLATIONS} < {*words.PHRASES}


def test_the_config_makes_clips_as_they_were_trained_on():
    config = tiny.config("opensora")
    assert (config.num_frames, config.fps) == (FULL_FRAMES, FPS)
