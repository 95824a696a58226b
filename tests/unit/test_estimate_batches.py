"""The estimate of a large micro-batch, which takes no longer than that of a small one."""

from __future__ import annotations

import pytest

from videosys import tiny
from videosys.estimate import cost as module
from videosys.estimate import estimate

FIRST, *OTHERS = tiny.bundled()


@pytest.mark.parametrize("model", [FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_a_large_batch_is_reckoned_from_two_small_ones(model, monkeypatch):
    config = tiny.config(model, batch_size=6, num_videos_per_prompt=6)
    metered = module.measured(config, None)
    asked = []
    measured = module.measured
    monkeypatch.setattr(module, "measured", lambda c, t: asked.append(c.batch_size) or measured(c, t))
    reckoned = estimate(config)
    assert asked == [2, 3]
    assert [stage.flops for stage in reckoned.stages] == [stage.flops for stage in metered.stages]
    # Chunks of activations fill up with the batch: the larger estimate is the safe one.
    assert metered.peak <= reckoned.peak <= 1.1 * metered.peak
