"""A rank without peers, for estimates: its tensors have shapes but no values."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor

from videosys.parallel.config import ParallelConfig
from videosys.parallel.mesh import Axis, Parallel
from videosys.parallel.ops import shard_sizes


class Absent(Parallel):
    """The rank with the largest shards. It allocates the same buffers as a real exchange."""

    @classmethod
    def of(cls, config: ParallelConfig) -> Absent:
        """The rank of a config whose axes are set (see `ParallelConfig.resolved`)."""
        return cls(dp=Axis(size=config.dp or 1), cfg=Axis(size=config.cfg or 1), sp=Axis(size=config.sp or 1))

    def gather(self, x: Tensor, dim: int, size: int) -> Tensor:
        if self.sp.size == 1:
            return x
        parts = x.new_empty(self.sp.size * x.numel())
        shape = list(x.shape)
        shape[dim] = size
        return parts.new_empty(shape)

    def swap_all(self, tensors: Sequence[Tensor], gather: int, scatter: int, size: int) -> Sequence[Tensor]:
        if self.sp.size == 1:
            return tensors
        shape = list(tensors[0].shape)
        shape[gather], shape[scatter] = size, shard_sizes(shape[scatter], self.sp.size)[0]
        buffers = [x.new_empty(x.numel()) for x in tensors]  # sent
        buffers += [x.new_empty(prod(shape)) for x in tensors]  # received
        return [x.new_empty(shape) for x in tensors]
