"""The caches around pipelines with an image, a video, a control branch or several sections."""

from __future__ import annotations

import pytest
import torch

from tests.unit.test_diffusers_pipelines import SAME_INPUT, trace_of
from tests.video_pipelines import generate
from tests.video_pipelines_more import CASES
from videosys.cache import IntervalConfig
from videosys.diffusers import cached
from videosys.diffusers.blocks import difference

pytestmark = pytest.mark.slow


def differences(pipe, call, place: str, plain: torch.Tensor) -> list[float]:
    """How far each reuse with the same input is from computing, of a generation that computes all."""
    found: list[float] = []
    with cached(pipe, cache=IntervalConfig(every=1), place=place) as run:
        run.watch = lambda slot, used, forward, output: found.append(
            difference(output, used.reused(forward, slot, slot.reuse))
        )
        assert torch.equal(generate(pipe, call), plain)
    return found


@pytest.mark.parametrize("name", CASES)
def test_computing_changes_no_bit_and_reuse_with_the_same_input_nearly_none(name):
    torch.manual_seed(0)
    pipe, call = CASES[name]()
    plain, before = generate(pipe, call), trace_of(pipe)
    assert bool(plain.isfinite().all())
    for place in ("output", "stack"):
        assert max(differences(pipe, call, place, plain)) <= (0 if place == "output" else SAME_INPUT)
        with cached(pipe, cache=IntervalConfig(every=2), place=place) as run:
            assert not torch.equal(generate(pipe, call), plain)
        assert 0 < sum(step.computed for step in run.steps) < len(run.steps)
        assert trace_of(pipe) == before
    assert torch.equal(generate(pipe, call), plain)
