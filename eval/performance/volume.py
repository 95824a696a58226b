"""Count the bytes that one device sends per step at the published sizes: python -m eval.performance.volume

The models run at full size on tensors without memory, as rank 0 of a group of simulated devices. The bytes
passed to torch.distributed are counted and printed next to the formula of docs/parallel.md.
"""

from __future__ import annotations

from videosys import exit_status, leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from eval.performance.sizes import SIZES
from videosys import Blueprint, CommandParser, Parallel, ParallelConfig

HALF, FLOAT = 2, 4  # bytes per element: bfloat16 in the model, float32 in the sampler
TEXT = 20  # text tokens


class Skip:
    """A cache that reuses at every step."""

    def should_compute(self, signal: Any) -> bool:
        return False

    def reuse(self, x: torch.Tensor) -> torch.Tensor:
        return x


@contextmanager
def ranks(count: int) -> Iterator[None]:
    """Run this process as rank 0 of a simulated group."""
    from torch.testing._internal.distributed.fake_pg import FakeStore  # registers the fake backend

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def counted() -> Iterator[list[int]]:
    """Yield a list that collects the bytes of each exchange; the exchanges themselves are skipped."""
    sent: list[int] = []

    def all_to_all(made: Any, x: Any, taken: Any, given: Any, group: Any) -> None:
        assert x.numel() == sum(given)
        assert made.numel() == sum(taken)
        sent.append((x.numel() - given[dist.get_rank(group)]) * x.element_size())

    def all_gather(made: Any, x: Any, group: Any) -> None:
        others = dist.get_world_size(group) - 1
        assert made.numel() == (others + 1) * x.numel()
        sent.append(others * x.numel() * x.element_size())

    gathers = [name for name in ("all_gather_single", "all_gather_into_tensor") if hasattr(dist, name)]
    with ExitStack() as stack:
        stack.enter_context(patch.object(dist, "all_to_all_single", all_to_all))
        for name in gathers:
            stack.enter_context(patch.object(dist, name, all_gather))
        yield sent


@torch.no_grad()
def count(plan: Blueprint, parallel: Parallel) -> tuple[int, int]:
    """Bytes that rank 0 sends in (a computed step, a skipped step), including the guidance pair."""
    batch, channels = 2 // parallel.cfg_size, plan.latent_channels
    made = []
    with torch.device("meta"):
        model = plan.parts.transformer.build(parallel).requires_grad_(False).to(torch.bfloat16)
        text = torch.empty(batch, TEXT, plan.parts.transformer.config.caption_channels)
        condition = plan.condition(model, text)
        latents, timesteps = torch.empty(batch, channels, *plan.latent_size), torch.empty(batch)
        for cache in ((), (Skip(),)):
            with counted() as sent:
                parallel.cfg_gather(model(latents, timesteps, condition, *cache)[:, :channels])
            made.append(sum(sent))
    return made[0], made[1]


def formula(plan: Blueprint, cfg: int, sp: int) -> tuple[float, float]:
    """The same by the formula of docs/parallel.md, for even shards."""
    config, batch = plan.parts.transformer.config, 2 // cfg
    grid = config.grid(plan.latent_size)
    shard = batch * grid.num_frames * grid.tokens_per_frame * HALF / sp  # of one channel
    swaps = (4 if is_joint(plan) else 2) * plan.depth
    head = config.out_channels * math.prod(grid.patch_size)
    pair = (cfg - 1) * batch * plan.latent_channels * math.prod(plan.latent_size) * FLOAT
    always = shard * head * (sp - 1) + pair
    return swaps * shard * config.hidden_size * (sp - 1) / sp + always, always


def is_joint(plan: Blueprint) -> bool:
    """Whether attention is over all tokens of the clip."""
    with torch.device("meta"):
        return "joint" in plan.transformer(1, Parallel()).stacks


def meshes(num_gpus: int) -> list[ParallelConfig]:
    """The default mesh under guidance, and the mesh with sp only."""
    chosen = ParallelConfig(num_gpus).resolved(is_guided=True)
    tokens = ParallelConfig(num_gpus, dp=1, cfg=1, sp=num_gpus)
    return [chosen, tokens] if chosen != tokens else [chosen]


def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser(
        prog="python -m eval.performance.volume",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gpus", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    args = parser.parse_args(argv)
    print("MB that one device sends per step: counted (by the formula)\n")
    print("| size | GPUs | cfg x sp | computed step | skipped step |\n|---|---|---|---|---|")
    for name in args.sizes:
        for num_gpus in args.gpus:
            for line in lines(name, num_gpus):
                print(line, flush=True)
    return 0


def lines(name: str, num_gpus: int) -> Iterator[str]:
    """Yield the table's rows for a size."""
    for config in meshes(num_gpus):
        with ranks(num_gpus):
            found = count(SIZES[name].plan, Parallel.from_config(config, "cpu"))
        expected = formula(SIZES[name].plan, config.cfg or 1, config.sp or 1)
        steps = [f"{one / 1e6:.1f} ({other / 1e6:.1f})" for one, other in zip(found, expected)]
        yield f"| {name} | {num_gpus} | {config.cfg} x {config.sp} | {steps[0]} | {steps[1]} |"


if __name__ == "__main__":
    sys.exit(exit_status(main, "interrupted"))
