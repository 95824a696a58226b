"""What others need to know of a model, in the same words for each."""

from __future__ import annotations

import pytest
import torch

from tests.house.test_stateless import EXAMPLES
from videosys.cache import Cache


class Asked(Cache):
    """Writes down which branches of which blocks a forward asks for."""

    def __init__(self):
        self.branches = []

    def layer(self, stack, index):
        return lambda kind, compute: self.branches.append((stack, index, kind)) or compute()


@pytest.mark.parametrize("name", EXAMPLES)
@torch.no_grad()
def test_stacks_and_branches_are_those_that_a_cache_is_asked_for(name):
    model, cache = EXAMPLES[name]()[0], Asked()
    more = {"fps": 12.0, "height": 32, "width": 48} if name == "STDiT3" else {}
    condition = model.prepare(torch.randn(1, 3, 8), latent_size=(3, 4, 6), **more)
    model(torch.randn(1, 4, 3, 4, 6), torch.tensor([500.0]), condition, cache)
    assert cache.branches == [
        (stack, index, kind)
        for index in range(model.config.depth)
        for stack, blocks in model.stacks.items()
        for kind in blocks[index].branches
    ]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_config_tells_depth_and_tokens(name):
    model = EXAMPLES[name]()[0]
    config = model.config.with_depth(1)
    assert (model.config.depth, config.depth) == (2, 1)
    assert [len(blocks) for blocks in type(model)(config).stacks.values()] == [1] * len(model.stacks)
    assert config.grid((3, 4, 6)).size == (3, 2, 3)
    with pytest.raises(ValueError, match=r"parallel.sp is 7; it must be 6 or less"):
        config.check_parallel(7, (3, 4, 6))
