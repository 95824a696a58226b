"""The default process group: join, leave, exchange of values."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from videosys.engine.codec import MAX_MESSAGE_BYTES, Codec

T = TypeVar("T")


def join(device: torch.device, timeout: float, **membership: Any) -> None:
    """Joins the default process group, until `leave`.

    timeout: seconds. membership: `rank`, `world_size` and `store`; without them they are torchrun's.
    """
    options: dict[str, Any] = {"timeout": timedelta(seconds=timeout), **membership}
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # gloo too: decisions, requests and finished videos are in host memory.
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device, **options)
    else:
        dist.init_process_group("gloo", **options)


def leave() -> None:
    """Leaves the process group, if this process is in one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def exchange(value: T, codec: Codec) -> list[T]:
    """The value of each rank, in rank order, on every rank. All ranks must call it, with one type of value.

    ValueError on every rank that names the first rank whose bytes are too many, cannot be unpacked or have
    another type.
    """
    own = torch.frombuffer(bytearray(codec.pack(value)), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(own)]))
    for rank, size in enumerate(map(int, sizes)):
        if not 0 < size <= MAX_MESSAGE_BYTES:
            raise ValueError(f"rank {rank} sends {size} bytes; it must be 1 to {MAX_MESSAGE_BYTES}")
    # All collectives come before content checks: otherwise a failing rank would block the others.
    messages = [torch.empty(int(size), dtype=torch.uint8) for size in sizes]
    messages[dist.get_rank()] = own
    for rank, message in enumerate(messages):
        dist.broadcast(message, src=rank)
    return [_unpack(codec, type(value), rank, bytes(data.numpy())) for rank, data in enumerate(messages)]


def _unpack(codec: Codec, cls: type[T], rank: int, data: bytes) -> T:
    try:
        value = codec.unpack(data)
    except ValueError as error:
        raise ValueError(f"rank {rank}: {error}") from error
    if not isinstance(value, cls):
        raise ValueError(f"rank {rank} sends a {type(value).__name__}; expected: {cls.__name__}")
    return value
