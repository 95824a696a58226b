"""Ranks of a gloo group, of which one sends what no codec wrote."""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.hostile import hostile
from videosys.engine import group
from videosys.engine.codec import MAX_MESSAGE_BYTES, Codec
from videosys.engine.messages import value_codec

PATIENCE = timedelta(seconds=120)
SIZES = (0, -1, MAX_MESSAGE_BYTES + 1, -(1 << 63), (1 << 63) - 1)


class Forger(Codec):
    """Sends some bytes instead of a value, and reads like an honest rank."""

    def __init__(self, codec: Codec, data: bytes):
        super().__init__(codec.types.values())
        self.data = data

    def pack(self, value: Any) -> bytes:
        return self.data


def work(rank: int, world_size: int, folder: Path) -> None:
    """Exchanges every hostile message, and writes down what this rank said about each."""
    sys.path.insert(0, str(folder))  # where hostile_marker lies
    store = dist.FileStore(str(folder / "store"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=PATIENCE)
    codec, errors = value_codec(), {}
    messages = {name: data for name, (data, _) in hostile(f"touch {folder / 'ran'}").items() if data}
    for name, data in {**messages, "another type": codec.pack({"request": 1})}.items():
        try:
            group.exchange("honest", Forger(codec, data) if rank == 1 else codec)
        except ValueError as error:
            errors[name] = str(error)
    # The group is in step: an honest exchange works after all of them.
    errors["honest"] = group.exchange(f"rank {rank}", codec)
    errors["modules"] = "hostile_marker" in sys.modules
    (folder / f"{rank}.json").write_text(json.dumps(errors))
    dist.barrier()
    dist.destroy_process_group()


def announce(rank: int, world_size: int, folder: Path) -> None:
    """Rank 1 announces sizes that cannot be, then ends in the middle of an exchange."""
    store = dist.FileStore(str(folder / "store"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=PATIENCE)
    codec, errors = value_codec(), {}
    for size in SIZES:
        if rank == 1:
            send_size(size, world_size)
            continue
        try:
            group.exchange("honest", codec)
        except ValueError as error:
            errors[str(size)] = str(error)
    errors["honest"] = group.exchange(f"rank {rank}", codec)
    if rank == 1:
        send_size(1000, world_size)
        (folder / f"{rank}.json").write_text("{}")
        os._exit(0)  # in the middle of an exchange
    try:
        group.exchange("honest", codec)
    except RuntimeError as error:  # torch's: a peer is gone
        errors["gone"] = str(error).splitlines()[0]
    (folder / f"{rank}.json").write_text(json.dumps(errors))
    os._exit(0)  # the group is broken: there is nobody to leave it with


def send_size(size: int, world_size: int) -> None:
    """The first half of an exchange."""
    dist.all_gather([torch.zeros(1, dtype=torch.int64) for _ in range(world_size)], torch.tensor([size]))
