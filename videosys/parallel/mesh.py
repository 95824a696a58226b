"""`Parallel`: exchanges between devices. On one device, every operation returns its input.

Devices form a mesh dp x cfg x sp, sp innermost. The cfg x sp devices that share one video are a replica.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from videosys.parallel import ops
from videosys.parallel.config import ParallelConfig
from videosys.parallel.groups import build_groups
from videosys.utils.devices import host_row

T = TypeVar("T")


@dataclass(frozen=True)
class Axis:
    """The rank of this process along one axis of the mesh, the size of the axis, and its process group."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, group: dist.ProcessGroup) -> Axis:
        """The axis of a process group, with this process's rank."""
        return cls(dist.get_rank(group), dist.get_world_size(group), group)

    @property
    def peers(self) -> dist.ProcessGroup | None:
        """The group, or None if this process is alone in it."""
        return self.group if self.size > 1 else None


@dataclass(frozen=True)
class Parallel:
    """Exchanges along sp (tokens) and cfg (guidance pair) of a replica, and its share of videos (dp).

    Every rank of a replica calls the operations in the same order.
    """

    dp: Axis = Axis()
    cfg: Axis = Axis()
    sp: Axis = Axis()
    replica: Axis = Axis()
    device: torch.device | str = "cpu"

    @classmethod
    def from_config(cls, config: ParallelConfig, device: torch.device | str) -> Parallel:
        """The mesh of this process; its default process group has `config.num_gpus` ranks.

        All of them must call it. ValueError for axes that are not set (see `ParallelConfig.resolved`), for
        another number of ranks, or if the mesh backend is not installed. The default group's timeout is used.
        """
        if config.num_gpus == 1:
            return cls()
        if config.dp is None or config.cfg is None or config.sp is None:
            raise ValueError(f"an axis of {config} is not set; ParallelConfig.resolved sets them")
        if dist.get_world_size() != config.num_gpus:
            raise ValueError(
                f"parallel.num_gpus is {config.num_gpus}, but {dist.get_world_size()} processes were started"
            )
        device, sizes = torch.device(device), (config.dp, config.cfg, config.sp)
        groups = build_groups(config.mesh_backend, sizes, device.type)
        dp, cfg, sp, replica = map(Axis.of, groups)
        return cls(dp, cfg, sp, replica, device)

    @property
    def cfg_size(self) -> int:
        """Devices that share a guidance pair: 1 or 2."""
        return self.cfg.size

    def shard(self, x: Tensor, dim: int) -> Tensor:
        """This rank's shard of `x` along `dim`; the lengths of shards differ by at most one."""
        return x.tensor_split(self.sp.size, dim)[self.sp.rank] if self.sp.size > 1 else x

    def gather(self, x: Tensor, dim: int, size: int) -> Tensor:
        """The shards of all ranks, concatenated along `dim` to `size` entries."""
        return x if self.sp.peers is None else ops.gather(x, dim, size, self.sp.peers)

    def swap(self, x: Tensor, gather: int, scatter: int, size: int) -> Tensor:
        """`x` gathered along dim `gather` to `size` entries and sharded along dim `scatter` (all-to-all)."""
        return self.swap_all((x,), gather, scatter, size)[0]

    def swap_all(self, tensors: Sequence[Tensor], gather: int, scatter: int, size: int) -> Sequence[Tensor]:
        """`swap` several tensors of equal shape in one exchange."""
        if self.sp.peers is None:
            return tensors
        return ops.swap(tensors, gather, scatter, size, self.sp.peers)

    def cfg_shard(self, x: Tensor) -> Tensor:
        """This rank's half of a pair [cond, uncond] along the batch."""
        return x.chunk(self.cfg.size)[self.cfg.rank] if self.cfg.size > 1 else x

    def cfg_gather(self, x: Tensor) -> Tensor:
        """The pair [cond, uncond] along the batch."""
        return x if self.cfg.peers is None else ops.all_gather(x, self.cfg.peers).flatten(0, 1)

    def gather_rows(self, row: Tensor) -> Tensor:
        """One row per rank of the replica, in rank order: [ranks, len(row)]."""
        if self.replica.peers is None:
            return row[None]
        return ops.all_gather(row.to(self.device), self.replica.peers).to(row.device)

    def agree(self, what: str, *numbers: float) -> None:
        """RuntimeError on every rank of the replica if their numbers differ."""
        rows = self.gather_rows(host_row(numbers)).tolist()
        if any(row != rows[0] for row in rows):
            raise RuntimeError(f"the ranks of one video disagree on {what}: {rows}")

    def map(
        self,
        run: Callable[[Tensor], Tensor],
        items: Sequence[Tensor],
        finished: Callable[[int], object] | None = None,
    ) -> Iterator[Tensor]:
        """Apply `run` to each item, in order. The ranks of the replica share the items and exchange the
        results.

        Results have the dtype of the items. `finished` is called with the index of each finished item.
        On one device, items are computed lazily; otherwise every rank must iterate.
        """
        done = finished or (lambda number: None)
        if self.replica.peers is None:
            for number, item in enumerate(items):
                result = run(item)
                done(number)
                yield result
            return
        owners = ops.balanced([item.numel() for item in items], self.replica.size)
        own = []
        for number, item in enumerate(items):
            if owners[number] == self.replica.rank:
                own.append(run(item))
                done(number)
        results = ops.exchange(own, owners, items[0], self.replica.peers)
        for number, result in enumerate(results):
            if owners[number] != self.replica.rank:
                done(number)
            yield result

    def own(self, items: Sequence[T]) -> Sequence[T]:
        """This replica's items: those with index k * dp.size + dp.rank."""
        return items[self.dp.rank :: self.dp.size]
