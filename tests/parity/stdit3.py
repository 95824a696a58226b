"""The small STDiT3 of the golden cases and its inputs."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

from tests.goldens.fill import fill_module, fill_tensor
from videosys.models.opensora.transformer import STDiT3, STDiT3Condition, STDiT3Config

FAMILY = "opensora"


def build(case: dict[str, Any]) -> STDiT3:
    names = {field.name for field in fields(STDiT3Config)}
    config = {key: value for key, value in case["config"].items() if key in names}
    config["patch_size"] = tuple(config["patch_size"])
    return fill_module(STDiT3(STDiT3Config(**config)), keep=["rope.freqs"], salt=case["salt"])


def filled(case: dict[str, Any], name: str) -> torch.Tensor:
    entry = case["inputs"][name]
    return fill_tensor(entry["fill"], entry["shape"], case["salt"])


def prefix_mask(lengths: list[int], width: int) -> torch.Tensor:
    return (torch.arange(width)[None] < torch.tensor(lengths)[:, None]).long()


def pair_condition(model: STDiT3, case: dict[str, Any], kept: int = 7) -> STDiT3Condition:
    """[cond, uncond] of the denoise cases: the caption and the null caption, cut to `kept` tokens."""
    y, literals = filled(case, "y")[:, 0], case["literals"]
    pair = torch.cat((y, model.null_caption(y.shape[1])[None]))
    return model.prepare(
        pair,
        prefix_mask([kept], y.shape[1]),
        latent_size=tuple(case["inputs"]["z"]["shape"][2:]),
        fps=literals["fps"],
        height=literals["height"],
        width=literals["width"],
    )
