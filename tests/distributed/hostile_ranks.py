"""Ranks of a gloo group, of which one sends what no codec wrote."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tests.hostile import hostile
from videosys.engine import group
from videosys.engine.codec import Codec
from videosys.engine.messages import value_codec

PATIENCE = timedelta(seconds=120)


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
