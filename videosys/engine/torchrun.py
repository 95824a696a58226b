"""One process among those that torchrun started: all of them run the same program and ask for the same."""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from hashlib import sha256
from typing import Any

import torch.distributed as dist

from videosys.engine import group
from videosys.engine.build import build_pipeline, rank_device
from videosys.engine.messages import pack
from videosys.engine.order import Order
from videosys.estimate.memory import Watch
from videosys.generation.config import PipelineConfig
from videosys.generation.request import VideoOutput
from videosys.utils.seed import draw_seed

END = object()
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def world_size() -> int:
    """Processes that torchrun started for this program; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in NEEDED) else 1


def is_main_process() -> bool:
    """Whether this process saves and prints: the only one, or the first of those that torchrun started."""
    return world_size() == 1 or int(os.environ["RANK"]) == 0


class Member:
    """This process's share of the work, and all videos, which the ranks that make them give to the others."""

    def __init__(self, config: PipelineConfig, quiet: bool):
        """ValueError where `parallel.num_gpus` is neither 1 nor the number of processes."""
        world, given = world_size(), config.parallel.num_gpus
        if given not in (1, world):
            raise ValueError(f"parallel.num_gpus is {given}, and torchrun started {world} processes")
        parallel = replace(config.parallel, num_gpus=world).resolved(config.is_guided)
        self.config, self.quiet = replace(config, parallel=parallel), quiet or not is_main_process()
        here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        self.device = rank_device(self.config, int(os.environ.get("LOCAL_RANK", os.environ["RANK"])), here)
        self.watch = Watch(here)
        self._running: list[object] = []  # requests that are not at their end
        if not dist.is_initialized():
            group.join(self.device, parallel.timeout)
            atexit.register(leave_if_done, self._running)
        self.pipeline = build_pipeline(self.config, self.quiet, self.device)

    def stream(
        self, prompts: Sequence[str], config: PipelineConfig, inputs: dict[str, Any]
    ) -> Iterator[VideoOutput]:
        """The outputs in order, in every process. ValueError in all of them if not all ask for the same."""
        config = replace(config, parallel=self.config.parallel)
        if int(os.environ.get("LOCAL_RANK", os.environ["RANK"])) == 0:  # for all on this computer
            self.watch.look(config)
        check_alike(group.exchange(described(prompts, config, inputs)))
        if config.seed is None:
            config = replace(config, seed=group.exchange(draw_seed())[0])
        return self._outputs(prompts, replace(config, device=str(self.device)), inputs)

    def _outputs(
        self, prompts: Sequence[str], config: PipelineConfig, inputs: dict[str, Any]
    ) -> Iterator[VideoOutput]:
        order = Order.of(prompts, config)
        made = self.pipeline.generate(prompts, config, quiet=self.quiet, **inputs)
        size = config.parallel.num_gpus // (config.parallel.dp or 1)
        is_first = dist.get_rank() % size == 0
        self._running.append(made)
        is_working = True
        while is_working:
            mine = next(made, END)
            rows = group.exchange([mine is not END, mine if is_first and mine is not END else None])
            is_working = any(going_on for going_on, _ in rows)
            for output in (output for _, output in rows if output is not None):
                order.add(output)
            while (ready := order.next()) is not None:
                yield ready
        self._running.remove(made)

    def close(self) -> None:
        """Frees the weights. The group stays for what else the program does."""
        self.pipeline.close()


def leave_if_done(running: Sequence[object]) -> None:
    """Leaves the group at the end of the program, unless others may be waiting: then it must just end."""
    if not running:
        group.leave()


def described(prompts: Sequence[str], config: PipelineConfig, inputs: dict[str, Any]) -> dict[str, str]:
    """What is asked for, by name, as short text that is equal where it is equal."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    values |= {"prompt": list(prompts), **inputs}
    return {name: shown(value) for name, value in values.items()}


def shown(value: Any) -> str:
    plain = value is None or isinstance(value, (bool, int, float, str))
    return json.dumps(value) if plain else f"other ({sha256(pack(value)).hexdigest()[:16]})"


def check_alike(rows: Sequence[dict[str, str]]) -> None:
    """ValueError naming the rank and the fields that differ from rank 0's."""
    for rank, row in enumerate(rows):
        different = sorted(name for name in {*row, *rows[0]} if row.get(name) != rows[0].get(name))
        if different:
            told = ", ".join(f"{name} is {row.get(name)} and {rows[0].get(name)}" for name in different)
            raise ValueError(f"rank {rank} asks for something else than rank 0: {told}")
