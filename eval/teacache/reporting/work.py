"""Floating-point work, counted by running transformers without data, and the least time it takes on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from reporting.gpus import Gpu
from videosys import LatteT2V, LatteT2VConfig, OpenSoraT2V, OpenSoraT2VConfig, STDiT3, STDiT3Config

PAIR = 2  # prompts under guidance: with and without the text
BYTES = 2  # of a bfloat16


@dataclass(frozen=True)
class Architecture:
    """A transformer, and how often a block's tokens cross the memory outside matrix products.

    eager, fused: reads and writes of all tokens per layer, counted by hand in code run operation by operation
    and in code whose norms, gates and rotary embeddings are fused. text: tokens of the longest prompt.
    """

    model: type
    config: type
    eager: int
    fused: int
    text: int


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "STDiT3": Architecture(STDiT3, STDiT3Config, 2 * 57, 2 * 8, 300),
        "LatteT2V": Architecture(LatteT2V, LatteT2VConfig, 33 + 25, 2 * 4, 120),
        "OpenSoraT2V": Architecture(OpenSoraT2V, OpenSoraT2VConfig, 33, 8, 512),
    }
)


@dataclass(frozen=True)
class Setting:
    """A published size: latents (frames, rows, columns), model evaluations, and the model's arguments."""

    title: str
    study: str
    architecture: str
    latents: tuple[int, int, int]
    evaluations: int
    text: int | None = None
    options: tuple[tuple[str, Any], ...] = ()


SETTINGS = (
    Setting("Latte-1, 16 x 512 x 512", "latte", "LatteT2V", (16, 64, 64), 50),
    Setting("Open-Sora v1.2, 51 x 480p", "opensora", "STDiT3", (15, 60, 106), 30),
    Setting("Open-Sora v1.2, 204 x 480p", "opensora", "STDiT3", (60, 60, 106), 30),
    Setting(
        "Open-Sora-Plan v1.1.0, 65 x 512 x 512",
        "open_sora_plan_v110",
        "LatteT2V",
        (17, 64, 64),
        159,
        300,
        (("video_length", 17),),
    ),
    Setting("Open-Sora-Plan v1.2.0, 29 x 480p", "open_sora_plan_v120", "OpenSoraT2V", (8, 60, 80), 100),
    Setting("Open-Sora-Plan v1.2.0, 93 x 720p", "open_sora_plan_v120", "OpenSoraT2V", (24, 90, 160), 100),
)


@dataclass(frozen=True)
class Work:
    """FLOPs (two per multiplication with addition) of one generation's transformer, guidance pair included.

    prepare: once, for the text. step: with the blocks. reused: without. tokens and width: of all latents.
    """

    prepare: int
    step: int
    reused: int
    tokens: int
    width: int
    layers: int
    architecture: Architecture

    def total(self, computed: float, evaluations: int) -> float:
        return self.prepare + computed * self.step + (evaluations - computed) * self.reused

    def seconds(self, computed: float, evaluations: int, gpu: Gpu, fused: bool) -> float:
        """A lower bound of the loop's time: products at the device's peak, and other work at its bandwidth.

        A reused step moves the tokens about ten times.
        """
        crossing = self.tokens * self.width * BYTES / gpu.bandwidth
        passes = self.layers * (self.architecture.fused if fused else self.architecture.eager)
        moved = crossing * (computed * passes + (evaluations - computed) * 10)
        return self.total(computed, evaluations) / gpu.flops + moved


class Skipped:
    """A cache that reuses in every step, for counting what such a step costs."""

    def should_compute(self, signal: Any) -> bool:
        signal("modulated")
        return False

    def reuse(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.empty_like(x)


def count(
    architecture: Architecture,
    config: Any,
    latents: tuple[int, int, int],
    text: int | None = None,
    batch: int = PAIR,
    **options: Any,
) -> Work:
    """The work of a transformer at a size of its latents, for a prompt of `text` tokens (None for the
    longest). The model holds no weights, so this takes seconds and no memory.

    batch: 2 with guidance, 1 without. options: of the model's `prepare`.
    """
    with torch.device("meta"):
        model = architecture.model(config).eval()
        embeds = torch.empty(batch, text or architecture.text, config.caption_channels)
        inputs = torch.empty(batch, config.in_channels, *latents), torch.empty(batch)
    size = {"fps": 24.0, "height": 8.0 * latents[1], "width": 8.0 * latents[2]}
    more = size if architecture.model is STDiT3 else options
    with torch.no_grad():
        with FlopCounterMode(display=False) as prepare:
            condition = model.prepare(embeds, None, latent_size=latents, **more)
        with FlopCounterMode(display=False) as step:
            model(*inputs, condition)
        with FlopCounterMode(display=False) as reused:
            model(*inputs, condition, Skipped())
    grid = config.grid(latents)
    return Work(
        prepare.get_total_flops(),
        step.get_total_flops(),
        reused.get_total_flops(),
        batch * grid.num_frames * grid.tokens_per_frame,
        width(config),
        config.depth,
        architecture,
    )


def width(config: Any) -> int:
    """Numbers per token."""
    hidden = getattr(config, "hidden_size", None)
    return hidden or config.num_attention_heads * config.attention_head_dim


def count_setting(setting: Setting) -> Work:
    architecture = ARCHITECTURES[setting.architecture]
    return count(architecture, architecture.config(**dict(setting.options)), setting.latents, setting.text)
