"""Seeds."""

from __future__ import annotations

import pytest
import torch

from videosys.utils.seed import LARGEST_SEED, draw_seed, generator


def test_a_seed_fixes_the_numbers():
    first, again, other = (torch.randn(4, generator=generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_drawing_leaves_the_global_state_alone():
    before = torch.get_rng_state()
    torch.randn(4, generator=generator(draw_seed()))
    assert torch.equal(torch.get_rng_state(), before)


def test_drawn_seeds_differ_and_are_valid():
    seeds = {draw_seed() for _ in range(100)}
    assert len(seeds) > 90
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize("seed", [-1, LARGEST_SEED + 1, 1.0, "1", True, None])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="seed must be a whole number"):
        generator(seed)
    generator(LARGEST_SEED)
