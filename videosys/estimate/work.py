"""Operations of a transformer in one generation: for the text, per computed step and per skipped step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from videosys.estimate.blueprint import Blueprint
from videosys.estimate.cost import metered
from videosys.estimate.meter import on_meta
from videosys.layers.backends import use_attention
from videosys.parallel import Parallel
from videosys.utils.settled import settle

BLOCK_PASSES = (33, 8)  # default for a block of attention and MLP


@dataclass(frozen=True)
class TransformerWork:
    """FLOPs (two per multiply-add) of a transformer, including both halves of the guidance pair if guided.

    prepare: of the text, once per generation. step: of a step that computes all blocks. reused: of a step
        that reuses their result.
    tokens: of all latents. width: channels per token. layers: number of blocks per stack.
    passes: reads and writes of all tokens per layer outside matrix products, in eager and in fused code.
    """

    prepare: int
    step: int
    reused: int
    tokens: int
    width: int
    layers: int
    passes: tuple[int, int] = BLOCK_PASSES

    def total(self, computed: float, evaluations: int) -> float:
        """FLOPs of a generation with this many computed steps of `evaluations`."""
        return self.prepare + computed * self.step + (evaluations - computed) * self.reused


class Reused:
    """A cache that reuses at every step."""

    def should_compute(self, signal: Callable[[str], torch.Tensor]) -> bool:
        signal("modulated")
        return False

    def reuse(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.empty_like(x)


@settle
def transformer_work(plan: Blueprint, text_tokens: int | None = None) -> TransformerWork:
    """The transformer's work for one video of a blueprint and a prompt of `text_tokens` tokens (None: the
    model's maximum). No weights are loaded.
    """
    shape, samples = plan.parts.transformer.config, 2 if plan.config.is_guided else 1
    length = text_tokens or plan.parts.text_encoder.max_length
    model: Any = on_meta(lambda: plan.transformer(plan.depth, Parallel()), torch.float32)
    use_attention(model, "torch")
    text = torch.empty(samples, length, shape.caption_channels, device="meta")
    latents = torch.empty(samples, plan.latent_channels, *plan.latent_size, device="meta")
    timesteps = torch.empty(samples, device="meta")
    condition, prepare = metered(lambda: plan.condition(model, text))
    _, step = metered(lambda: model(latents, timesteps, condition))
    _, reused = metered(lambda: model(latents, timesteps, condition, Reused()))
    grid = shape.grid(plan.latent_size)
    return TransformerWork(
        prepare.flops,
        step.flops,
        reused.flops,
        tokens=samples * grid.num_frames * grid.tokens_per_frame,
        width=shape.hidden_size,
        layers=plan.depth,
        passes=memory_passes(model),
    )


def memory_passes(model: Any) -> tuple[int, int]:
    """The transformer's `memory_passes`, or else the default for its stacks."""
    eager, fused = BLOCK_PASSES
    count = len(model.stacks)
    return getattr(model, "memory_passes", (eager * count, fused * count))
