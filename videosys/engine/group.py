"""The process group of several ranks: joined, compared, shared among, left."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from videosys.engine.messages import pack, unpack


def join(device: torch.device, timeout: float, **place: Any) -> None:
    """Makes this process a member of the default group, which is left to whoever calls `leave`.

    place: `rank`, `world_size` and `store`; without them they are what torchrun says.
    """
    options: dict[str, Any] = {"timeout": timedelta(seconds=timeout), **place}
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # gloo too: decisions, requests and finished videos are in the host's memory.
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device, **options)
    else:
        dist.init_process_group("gloo", **options)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def exchange(value: Any) -> list[Any]:
    """What each rank gave, in rank order, on every rank. All ranks must call it."""
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64)
    data = torch.frombuffer(bytearray(pack(value)), dtype=torch.uint8)
    sizes[dist.get_rank()] = len(data)
    dist.all_reduce(sizes)
    values = []
    for rank, size in enumerate(sizes.tolist()):
        mine = rank == dist.get_rank()
        buffer = data if mine else torch.empty(size, dtype=torch.uint8)
        dist.broadcast(buffer, src=rank)
        values.append(unpack(bytes(buffer.numpy())))
    return values
