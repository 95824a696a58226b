"""Open-Sora's prompt and mask parsers against the published cases."""

from __future__ import annotations

import pytest
import torch

from tests.goldens.load import load_json
from videosys.models.opensora.conditioning import (
    apply_mask_strategy,
    latent_to_pixel_frames,
    nearest_point,
    parse_mask_strategy,
)
from videosys.models.opensora.prompt import split_loops, text_of_loop

TEXT = load_json("opensora", "text")


@pytest.mark.parametrize("case", TEXT["loops"], ids=lambda case: case["prompt"])
def test_loops(case):
    texts, starts = split_loops(case["prompt"])
    assert [texts, starts] == case["split"]
    assert [text_of_loop(case["prompt"], loop) for loop in range(len(case["per_loop"]))] == case["per_loop"]


@pytest.mark.parametrize("case", TEXT["mask_strategy"], ids=lambda case: case["mask_strategy"])
def test_mask_strategies(case):
    assert [list(condition) for condition in parse_mask_strategy(case["mask_strategy"])] == case["parsed"]


@pytest.mark.parametrize("case", TEXT["nearest_point"], ids=str)
def test_nearest_points(case):
    assert nearest_point(case["value"], case["point"], case["max_value"]) == case["result"]


@pytest.mark.parametrize("case", TEXT["apply_mask"]["cases"], ids=lambda case: case["mask_strategy"])
def test_masks(case):
    frames = torch.arange(1.0, case["reference_frames"] + 1)[None, :, None, None]
    latents = torch.zeros(1, 2, case["latent_frames"], 3, 3)
    references = [frames.expand(2, -1, 3, 3)] * 2
    result, mask = apply_mask_strategy(
        latents, references, case["mask_strategy"], case["loop_index"], case["align"]
    )
    expected = torch.tensor(case["latent_from_reference"], dtype=torch.float32)[:, None, None]
    assert torch.equal(mask, torch.tensor([case["mask"]]))
    assert torch.equal(result, expected.expand_as(latents))


def test_latent_to_pixel_frames():
    for latents, frames in TEXT["latent_to_pixel_frames"].items():
        assert latent_to_pixel_frames(int(latents)) == frames
