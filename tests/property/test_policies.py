"""Whatever the settings: a cache that always computes changes no bit, and TeaCache follows its rule."""

from __future__ import annotations

import functools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videosys.cache import NO_CACHE, NoCacheConfig, TeaCacheConfig, start
from videosys.generation.denoise import Sampling, denoise
from videosys.models.opensora.transformer import STDiT3, STDiT3Config
from videosys.parallel import Parallel
from videosys.schedulers.rflow import RFlowScheduler
from videosys.utils.seed import generator

CONFIG = STDiT3Config(hidden_size=16, depth=1, num_heads=2, caption_channels=8, model_max_length=6)
quickly = settings(max_examples=40, deadline=None, derandomize=True)

# Settings with which every step computes: nothing is below a threshold of 0, and a constant reaches its own.
always = st.one_of(
    st.builds(
        TeaCacheConfig,
        threshold=st.just(0.0),
        coefficients=st.sampled_from([None, (1.0, 0.0), (3.0, 0.0, 0.1)]),
        signal=st.sampled_from(["modulated", "timestep"]),
    ),
    st.floats(1e-3, 1e3).map(lambda level: TeaCacheConfig(level, (0.0, level))),
    st.just(NoCacheConfig()),
)


@functools.cache
def model() -> STDiT3:
    torch.manual_seed(0)
    return STDiT3(CONFIG).eval().requires_grad_(False)


def generate(cache, steps, size, batch, masked):
    scheduler = RFlowScheduler()
    scheduler.set_timesteps(steps, num_frames=17, height=64, width=64)
    cache = NO_CACHE if cache is None else start(cache, scheduler.times(), Parallel().gather_rows)
    source = generator(steps)
    latents = torch.randn(batch, 4, *size, generator=source)
    embeds = torch.randn(2 * batch, 6, 8, generator=source)
    frame_mask = (torch.arange(size[0]) > 0).float().expand(batch, -1) if masked else None
    condition = model().prepare(embeds, latent_size=size, fps=12.0, height=64, width=64)
    sampling = Sampling(4.0, generator(1), frame_mask)
    return denoise(model(), scheduler, latents, condition, sampling, cache, Parallel()), cache.steps


@quickly
@given(
    always,
    st.integers(1, 6),
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    st.integers(1, 2),
    st.booleans(),
)
def test_a_cache_that_always_computes_changes_no_bit(cache, steps, size, batch, masked):
    plain, _ = generate(None, steps, size, batch, masked)
    result, records = generate(cache, steps, size, batch, masked)
    assert torch.equal(result, plain)
    assert torch.isfinite(result).all()
    assert [record.computed for record in records] == [True] * steps


def rule(signals, threshold, coefficients, most):
    """The published rule with the step index, written again and plainly."""
    computed, total, skipped = [], 0.0, 0
    for step, signal in enumerate(signals):
        if step in (0, len(signals) - 1):
            compute = True
        else:
            before = signals[step - 1]
            total += np.polyval(coefficients, np.abs(signal - before).sum() / np.abs(before).sum())
            compute = total >= threshold or skipped == most
        total, skipped = (0.0, 0) if compute else (total, skipped + 1)
        computed.append(compute)
    return computed


# Eighths, so that every sum and quotient is exact enough for both ways to agree at the threshold.
numbers = st.integers(1, 32).map(lambda n: n / 8)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(numbers, min_size=1, max_size=20),
    st.floats(0, 3),
    st.sampled_from([(1.0, 0.0), (0.5, 0.25), (2.0, -1.0, 0.0), (-0.5,)]),
    st.one_of(st.none(), st.integers(1, 4)),
)
def test_decisions_follow_the_rule(values, threshold, coefficients, most):
    signals = [np.array([value, -value]) for value in values]
    cache = start(
        TeaCacheConfig(threshold, coefficients, max_consecutive_skips=most),
        [0.0] * len(values),
        Parallel().gather_rows,
    )
    for step, signal in enumerate(signals):
        cache.begin_step(step, 0.0)
        cache.should_compute(lambda kind, signal=signal: torch.from_numpy(signal))
    assert [record.computed for record in cache.steps] == rule(signals, threshold, coefficients, most)


@quickly
@given(st.floats(0, 2), st.integers(2, 8), st.sampled_from(["modulated", "timestep"]))
def test_first_and_last_step_compute_and_records_are_complete(threshold, steps, signal):
    config = TeaCacheConfig(threshold, signal=signal)
    result, records = generate(config, steps, (3, 4, 4), 1, False)
    assert [record.step for record in records] == list(range(steps))
    assert records[0].computed
    assert records[-1].computed
    assert torch.isfinite(result).all()
    assert all((record.accumulated < threshold) != record.computed for record in records[1:-1])
