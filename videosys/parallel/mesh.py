"""The object that knows how many devices share a video; on one, every operation returns its input."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ParallelConfig:
    """How many devices work together; one is what this version runs on."""

    num_gpus: int = 1

    def __post_init__(self) -> None:
        if self.num_gpus != 1:
            raise ValueError(f"parallel.num_gpus is {self.num_gpus}; this version runs on 1 device")


@dataclass(frozen=True)
class Parallel:
    """Tokens (sp) and the guidance pair (cfg) of one replica; a single device holds all of both."""

    def shard(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """This rank's part of `x` along `dim`."""
        return x

    def gather(self, x: torch.Tensor, dim: int, size: int) -> torch.Tensor:
        """All parts along `dim`, `size` entries in all."""
        return x

    def swap(self, x: torch.Tensor, gather: int, scatter: int, size: int) -> torch.Tensor:
        """`x` whole along dim `gather` (`size` entries) and cut along dim `scatter` instead."""
        return x

    def cfg_shard(self, x: torch.Tensor) -> torch.Tensor:
        """This rank's half of a pair [cond, uncond] along the batch."""
        return x

    def cfg_gather(self, x: torch.Tensor) -> torch.Tensor:
        """The pair [cond, uncond] along the batch."""
        return x

    def gather_rows(self, row: torch.Tensor) -> torch.Tensor:
        """One row per rank of the replica, in rank order: [ranks, len(row)]."""
        return row[None]
