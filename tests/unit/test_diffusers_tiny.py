"""The tiny trained Wan: it generates what a caption says, with and without a cache."""

from __future__ import annotations

import pytest
import torch

from eval.training.clips import ATTRIBUTES
from eval.training.detect import detect
from eval.training.scored import scored
from videosys import ScheduleConfig
from videosys.diffusers import TINY_WAN_CALL, cached, tiny_wan

LEARNT = {
    "a large cyan cross moves upward on a navy background.",
    "a small yellow triangle on a grey background shrinks",
}


@pytest.fixture(scope="module", name="pipe")
def trained():
    return tiny_wan()


def shown(pipe, caption: str) -> dict[str, str]:
    frames = pipe(caption, **TINY_WAN_CALL, generator=torch.Generator().manual_seed(0)).frames[0]
    found = detect(torch.from_numpy(frames).mul(255).round().to(torch.uint8))
    return {name: getattr(found, name) for name in ATTRIBUTES}


def test_shows_what_the_caption_says_with_and_without_a_cache(pipe):
    captions = [(caption, spec) for caption, spec in scored()[:8] if caption in LEARNT]
    assert len(captions) == len(LEARNT)
    half = ScheduleConfig(computed=(*range(4), *range(5, 25, 2), 29), place="output")
    for caption, spec in captions:
        wanted = {name: getattr(spec, name) for name in ATTRIBUTES}
        assert shown(pipe, caption) == wanted
        with cached(pipe, cache=half) as run:
            assert shown(pipe, caption) == wanted
        assert 2 * sum(step.computed for step in run.steps) == len(run.steps) == 60


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="neither a local folder nor a hub id"):
        tiny_wan(tmp_path / "missing")
