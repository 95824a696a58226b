"""The published sizes, and the least time that a generation of counted work takes on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reporting.gpus import Gpu
from videosys import Blueprint, LatteConfig, OpenSoraConfig, OpenSoraPlanConfig, TransformerWork, blueprint

BYTES = 2  # of a bfloat16
REUSED_PASSES = 10  # of all tokens through memory in a reused step, about


@dataclass(frozen=True)
class Setting:
    """A published size: the config of a generation."""

    title: str
    config: Any

    @property
    def study(self) -> str:
        """The model's name in the paper's tables and of its folder of samples."""
        return self.config.model_name

    @property
    def plan(self) -> Blueprint:
        """The parts of the published checkpoint, without weights."""
        return blueprint(self.config)


SETTINGS = (
    Setting("Latte-1, 16 x 512 x 512", LatteConfig()),
    Setting("Open-Sora v1.2, 51 x 480p", OpenSoraConfig(num_frames="2s")),
    Setting("Open-Sora v1.2, 204 x 480p", OpenSoraConfig(num_frames="8s")),
    Setting("Open-Sora-Plan v1.1.0, 65 x 512 x 512", OpenSoraPlanConfig(version="v110")),
    Setting("Open-Sora-Plan v1.2.0, 29 x 480p", OpenSoraPlanConfig(transformer_type="29x480p")),
    Setting("Open-Sora-Plan v1.2.0, 93 x 720p", OpenSoraPlanConfig(transformer_type="93x720p")),
)


def seconds(work: TransformerWork, computed: float, evaluations: int, gpu: Gpu, fused: bool) -> float:
    """A lower bound of the loop's time: products at the device's peak, and other work at its bandwidth."""
    crossing = work.tokens * work.width * BYTES / gpu.bandwidth
    passes = work.layers * work.passes[1 if fused else 0]
    moved = crossing * (computed * passes + (evaluations - computed) * REUSED_PASSES)
    return work.total(computed, evaluations) / gpu.flops + moved
