"""The small LatteT2V of the golden cases of both families, its inputs, and what its parts gave."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any

import torch
from einops import rearrange

from tests.goldens.fill import fill_module, fill_tensor
from videosys.models.open_sora_plan.pipeline import with_frame_scale
from videosys.models.pixart.latte_t2v import LatteT2V, LatteT2VConfig

LATTE, PLAN = "latte", "open_sora_plan"
ATOL = RTOL = 1e-5  # RTOL is relative to the largest absolute value


def build(case: dict[str, Any]) -> LatteT2V:
    names = {field.name for field in fields(LatteT2VConfig)}
    config = {key: value for key, value in case["config"].items() if key in names}
    if isinstance(config["sample_size"], list):
        config["sample_size"] = tuple(config["sample_size"])
    made = LatteT2VConfig(**config)
    made = with_frame_scale(made) if "interpolation_scale_1d" in config else made  # Open-Sora-Plan's
    model = fill_module(LatteT2V(made), salt=case["salt"]).requires_grad_(False)
    for entry in case.get("weights_except", ()):
        assert entry["rule"] == "fill(...) times 0.1"
        model.get_parameter(entry["key"]).mul_(0.1)
    return model


def filled(case: dict[str, Any], name: str) -> torch.Tensor:
    entry = case["inputs"][name]
    return fill_tensor(entry.get("key") or entry["fill"], entry["shape"], case["salt"])


def watch(model: LatteT2V, spatial: str, temporal: str) -> dict[str, torch.Tensor]:
    """Outputs of the blocks in the goldens' layout, by name and number."""
    seen: dict[str, torch.Tensor] = {}
    stacks = {
        spatial: (model.transformer_blocks, "b t s c -> (b t) s c"),
        temporal: (model.temporal_transformer_blocks, "b t s c -> (b s) t c"),
    }
    for name, (blocks, pattern) in stacks.items():
        for i, block in enumerate(blocks):
            block.register_forward_hook(partial(_keep, seen, name.format(i), pattern))
    return seen


def _keep(seen: dict[str, torch.Tensor], name: str, pattern: str, _module, _inputs, output) -> None:
    seen[name] = rearrange(output, pattern)


def assert_equal(got: torch.Tensor, want: torch.Tensor, atol: float = ATOL) -> None:
    torch.testing.assert_close(got, want, atol=atol + RTOL * float(want.abs().max()), rtol=0)
