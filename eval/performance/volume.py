"""Bytes that one device sends in a step of the published sizes, counted: python -m eval.performance.volume

The real models run at their real sizes on tensors without memory, as rank 0 of so many devices that are not
there. What they hand to torch.distributed is counted, and printed beside the formula of docs/parallel.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from videosys import (
    LatteT2V,
    LatteT2VConfig,
    OpenSoraT2V,
    OpenSoraT2VConfig,
    Parallel,
    ParallelConfig,
    STDiT3,
    STDiT3Config,
)

HALF, FLOAT = 2, 4  # bytes of bfloat16, which the model computes in, and of what the sampler reads
CHANNELS, PATCH = 4, 2


@dataclass(frozen=True)
class Setting:
    """A published size: latents (frames, rows, columns) of one video, under guidance."""

    latent_size: tuple[int, int, int]
    model_cls: type
    config: Any

    @property
    def tokens(self) -> int:
        frames, rows, columns = self.latent_size
        return frames * -(-rows // PATCH) * -(-columns // PATCH)

    @property
    def is_joint(self) -> bool:
        """Whether every token attends to every other."""
        return self.model_cls is OpenSoraT2V

    @property
    def depth(self) -> int:
        return self.config.depth if self.model_cls is STDiT3 else self.config.num_layers

    def prepare(self, model: Any, batch: int) -> Any:
        text = torch.empty(batch, 20, self.config.caption_channels)
        frame = {"fps": 24.0, "height": 480.0, "width": 848.0} if self.model_cls is STDiT3 else {}
        return model.prepare(text, latent_size=self.latent_size, **frame)


def plan(frames: int, rows: int, columns: int) -> Setting:
    """A checkpoint of Open-Sora-Plan v1.2.0."""
    config = OpenSoraT2VConfig(sample_size=(rows, columns), sample_size_t=frames)
    return Setting((frames, rows, columns), OpenSoraT2V, config)


SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        "Open-Sora 480p 9:16, 2s": Setting((15, 60, 106), STDiT3, STDiT3Config()),
        "Open-Sora 480p 9:16, 8s": Setting((60, 60, 106), STDiT3, STDiT3Config()),
        "Latte 16x512x512": Setting((16, 64, 64), LatteT2V, LatteT2VConfig()),
        "Plan v1.1.0 65x512x512": Setting((17, 64, 64), LatteT2V, LatteT2VConfig(video_length=17)),
        "Plan v1.1.0 221x512x512": Setting((56, 64, 64), LatteT2V, LatteT2VConfig(video_length=56)),
        "Plan v1.2.0 29x480p": plan(8, 60, 80),
        "Plan v1.2.0 93x480p": plan(24, 60, 80),
        "Plan v1.2.0 29x720p": plan(8, 90, 160),
        "Plan v1.2.0 93x720p": plan(24, 90, 160),
    }
)


class Skip:
    """A cache that reuses at every step."""

    def should_compute(self, signal: Any) -> bool:
        return False

    def reuse(self, x: torch.Tensor) -> torch.Tensor:
        return x


@contextmanager
def ranks(count: int) -> Iterator[None]:
    """This process as rank 0 of a group whose other ranks are not there."""
    from torch.testing._internal.distributed.fake_pg import FakeStore  # registers the backend

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def counted() -> Iterator[list[int]]:
    """The bytes of each exchange that begins inside, in place of the exchange."""
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
def count(setting: Setting, parallel: Parallel) -> tuple[int, int]:
    """Bytes that rank 0 sends in a computed and in a skipped step, the guidance pair included."""
    batch = 2 // parallel.cfg_size
    made = []
    with torch.device("meta"):
        model = setting.model_cls(setting.config, parallel).requires_grad_(False).to(torch.bfloat16)
        condition = setting.prepare(model, batch)
        latents, timesteps = torch.empty(batch, CHANNELS, *setting.latent_size), torch.empty(batch)
        for cache in ((), (Skip(),)):
            with counted() as sent:
                parallel.cfg_gather(model(latents, timesteps, condition, *cache)[:, :CHANNELS])
            made.append(sum(sent))
    return made[0], made[1]


def formula(setting: Setting, cfg: int, sp: int) -> tuple[float, float]:
    """The same by docs/parallel.md, with even shards."""
    batch, width = 2 // cfg, setting.config.hidden_size
    shard = batch * setting.tokens * HALF / sp  # of one channel
    swaps = (4 if setting.is_joint else 2) * setting.depth
    head = setting.config.out_channels * PATCH * PATCH
    frames, rows, columns = setting.latent_size
    pair = (cfg - 1) * batch * CHANNELS * frames * rows * columns * FLOAT
    always = shard * head * (sp - 1) + pair
    return swaps * shard * width * (sp - 1) / sp + always, always


def meshes(num_gpus: int) -> list[ParallelConfig]:
    """What is chosen under guidance, and tokens alone."""
    chosen = ParallelConfig(num_gpus).resolved(is_guided=True)
    tokens = ParallelConfig(num_gpus, dp=1, cfg=1, sp=num_gpus)
    return [chosen, tokens] if chosen != tokens else [chosen]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m eval.performance.volume",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gpus", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    args = parser.parse_args(argv)
    print("MB that one device sends in a step: counted (by the formula)\n")
    print("| size | GPUs | cfg x sp | computed step | skipped step |\n|---|---|---|---|---|")
    for name in args.settings:
        for num_gpus in args.gpus:
            for line in lines(name, num_gpus):
                print(line, flush=True)
    return 0


def lines(name: str, num_gpus: int) -> Iterator[str]:
    """Rows of the table."""
    for config in meshes(num_gpus):
        with ranks(num_gpus):
            found = count(SETTINGS[name], Parallel.from_config(config, "cpu"))
        expected = formula(SETTINGS[name], config.cfg or 1, config.sp or 1)
        steps = [f"{one / 1e6:.1f} ({other / 1e6:.1f})" for one, other in zip(found, expected)]
        yield f"| {name} | {num_gpus} | {config.cfg} x {config.sp} | {steps[0]} | {steps[1]} |"


if __name__ == "__main__":
    sys.exit(main())
