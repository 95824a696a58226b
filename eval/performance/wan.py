"""The adapter for pipelines of diffusers around transformers of Wan 2.1's sizes with random weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from eval.performance.plan import Plan, Row, name_of
from eval.performance.timing import Run, Sample, alternate, ratio
from videosys import IntervalConfig
from videosys.diffusers import cached

TEXT = 512  # tokens
Measure = Callable[[nn.Module, dict[str, Any], str, int], dict[str, Sample]]  # the string: computed or reused


@dataclass(frozen=True)
class Wan:
    """Heads, layers, the width of the feed-forward, and the latents [frames, rows, columns] of a video."""

    heads: int
    layers: int
    feed_forward: int
    latents: tuple[int, int, int] = (21, 60, 104)  # 81 frames of 480 x 832
    head: int = 128

    def model(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        from diffusers import WanTransformer3DModel

        torch.manual_seed(0)
        with device:
            made = WanTransformer3DModel(
                num_attention_heads=self.heads,
                attention_head_dim=self.head,
                num_layers=self.layers,
                ffn_dim=self.feed_forward,
                cross_attn_norm=True,
                qk_norm="rms_norm_across_heads",
            )
        kept = made._keep_in_fp32_modules  # as in `from_pretrained`
        for part, parameter in made.named_parameters():
            if not any(word in part for word in kept):
                parameter.data = parameter.to(dtype)
        return made.eval().requires_grad_(False)

    def inputs(self, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Arguments of one call of the model."""
        return {
            "hidden_states": torch.randn(1, 16, *self.latents, device=device, dtype=dtype),
            "timestep": torch.full((1,), 500.0, device=device),
            "encoder_hidden_states": torch.randn(1, TEXT, 4096, device=device, dtype=dtype),
            "return_dict": False,
        }


MODELS = MappingProxyType({"1.3B": Wan(12, 30, 8960), "14B": Wan(40, 40, 13824)})
TINY = MappingProxyType(
    {
        "1.3B": Wan(2, 3, 64, latents=(3, 8, 8), head=12),
        "14B": Wan(4, 4, 128, latents=(3, 8, 8), head=12),
    }
)


class Scheduler:
    """A minimal scheduler, with which a loop can have any number of steps."""

    sigmas = None
    timesteps = torch.full((100_000,), 500.0)

    def set_timesteps(self) -> None:
        """Begins a loop."""

    def step(self) -> None:
        """Ends a step."""


class Pipeline:
    """A video pipeline that only calls its model once per step, which is measured."""

    def __init__(self, transformer: nn.Module):
        self.transformer, self.scheduler = transformer, Scheduler()

    def __call__(self, run: Callable[[Run], Any], num_frames: int = 1, **inputs: Any) -> Any:
        self.scheduler.set_timesteps()

        def step() -> None:
            self.transformer(**inputs)
            self.scheduler.step()

        return run(step)


@torch.no_grad()
def wan(plan: Plan) -> Iterator[Row]:
    """Time a call of the model alone, and computed and reused calls with the adapter and diffusers' cache."""
    if (needed := plan.needs_cuda("wan")) is not None:
        yield needed
        return
    dtype = torch.float32 if plan.tiny else torch.bfloat16
    for name, sizes in (TINY if plan.tiny else MODELS).items():
        model, inputs = sizes.model(plan.device, dtype), sizes.inputs(plan.device, dtype)
        for cache, measured in CACHES.items():
            found = {kind: measured(model, inputs, kind, plan.rounds) for kind in ("computed", "reused")}
            yield {"model": name, "dtype": name_of(dtype), "cache": cache, **columns(found)}


def columns(found: Mapping[str, Mapping[str, Sample]]) -> Row:
    """Seconds of a call alone and with a cache, their ratio, and the overhead of a computed call."""
    row: Row = {"plain_s": found["computed"]["plain"].seconds}
    for kind, samples in found.items():
        row |= {f"{kind}_s": samples["cached"].seconds, f"{kind}_ratio": ratio(samples, "cached", "plain")}
    return row | {"added_ms": 1e3 * row["plain_s"] * (row["computed_ratio"] - 1)}


def adapter(place: str) -> Measure:
    """Measures `cached` at a place."""

    def measured(model: nn.Module, inputs: dict[str, Any], kind: str, rounds: int) -> dict[str, Sample]:
        alone = model.forward  # not wrapped by the adapter

        def take_turns(step: Run) -> dict[str, Sample]:
            return alternate({"plain": lambda: alone(**inputs), "cached": step}, rounds)

        pipe, config = Pipeline(model), IntervalConfig(every=1 if kind == "computed" else 10**6)
        with cached(pipe, cache=config, place=place):
            return pipe(take_turns, **inputs)

    return measured


def first_block(model: Any, inputs: dict[str, Any], kind: str, rounds: int) -> dict[str, Sample]:
    """Measures FirstBlockCache. Its hooks are removed during the call without a cache."""
    from diffusers import FirstBlockCacheConfig

    threshold = -1.0 if kind == "computed" else 1e30
    other = copy.deepcopy(model)
    other.enable_cache(FirstBlockCacheConfig(threshold=threshold))

    def step() -> None:
        with other.cache_context("cond"):
            other(**inputs)

    return alternate({"plain": lambda: model(**inputs), "cached": step}, rounds)


CACHES: Mapping[str, Measure] = MappingProxyType(
    {"output": adapter("output"), "stack": adapter("stack"), "FirstBlockCache": first_block}
)
