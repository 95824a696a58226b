"""Exchanges of shards within a group of processes. Shards may be uneven.

Buffers are contiguous and sizes are known on all ranks, so that nccl and gloo behave the same. The operations
are for inference and have no backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

MAX_DIMS = 7


def shard_sizes(size: int, count: int) -> list[int]:
    """Sizes of the shards of `count` ranks, as in `torch.tensor_split`: larger ones first."""
    least, more = divmod(size, count)
    return [least + 1] * more + [least] * (count - more)


def all_gather(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Gather x, which has the same shape on all ranks: [ranks, *x.shape]."""
    _check_gradient(x)
    count = dist.get_world_size(group)
    parts = x.new_empty(count * x.numel())
    # Renamed in torch 2.13, which warns about the old name.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(parts, x.reshape(-1), group=group)
    return parts.view(count, *x.shape)


def gather(x: Tensor, dim: int, size: int, group: dist.ProcessGroup) -> Tensor:
    """Gather the shards of all ranks along `dim` to `size` entries.

    Shards must have equal lengths for the exchange, so shorter ones are padded by one entry, which is
    removed.
    """
    sizes = shard_sizes(size, dist.get_world_size(group))
    if x.shape[dim] < max(sizes):
        one = [1 if axis == dim else n for axis, n in enumerate(x.shape)]
        x = torch.cat((x, x.new_zeros(one)), dim)
    parts = all_gather(x, group)
    return torch.cat([part.narrow(dim, 0, length) for part, length in zip(parts, sizes)], dim)


def _check_gradient(x: Tensor) -> None:
    if x.requires_grad:
        raise RuntimeError("several devices support only inference: there is no backward pass between them")


def swap(
    tensors: Sequence[Tensor], gather: int, scatter: int, size: int, group: dist.ProcessGroup
) -> list[Tensor]:
    """Gather each tensor along dim `gather` to `size` entries and shard it along `scatter`, in one
    all-to-all.

    The tensors have equal shapes, with this rank's shard along `gather`.
    """
    _check_gradient(tensors[0])
    count, rank = dist.get_world_size(group), dist.get_rank(group)
    pieces = list(zip(*(x.tensor_split(count, scatter) for x in tensors)))  # one row per receiver
    shape = list(tensors[0].shape)
    shape[scatter] = shard_sizes(shape[scatter], count)[rank]
    lengths = shard_sizes(size, count)
    shapes = [torch.Size([*shape[:gather], length, *shape[gather + 1 :]]) for length in lengths]
    sent = [sum(piece.numel() for piece in row) for row in pieces]
    sizes = [len(tensors) * shape.numel() for shape in shapes]
    received = tensors[0].new_empty(sum(sizes))
    dist.all_to_all_single(received, packed([piece for row in pieces for piece in row]), sizes, sent, group)
    parts = [part.view(len(tensors), *shape) for part, shape in zip(received.split(sizes), shapes)]
    return [torch.cat([part[i] for part in parts], gather) for i in range(len(tensors))]


def packed(pieces: Sequence[Tensor]) -> Tensor:
    """The entries of all pieces in order, each copied once."""
    sizes = [piece.numel() for piece in pieces]
    buffer = pieces[0].new_empty(sum(sizes))
    for part, piece in zip(buffer.split(sizes), pieces):
        part.view(piece.shape).copy_(piece)
    return buffer


def balanced(costs: Sequence[int], count: int) -> list[int]:
    """The rank of each item. Items are assigned by decreasing cost to the rank with the least work so far."""
    owners, work = [0] * len(costs), [0] * count
    for number in sorted(range(len(costs)), key=lambda number: -costs[number]):
        rank = work.index(min(work))
        owners[number] = rank
        work[rank] += costs[number]
    return owners


def exchange(
    own: Sequence[Tensor], owners: Sequence[int], like: Tensor, group: dist.ProcessGroup
) -> list[Tensor]:
    """Exchange tensors, so that every rank has the tensors of all `owners`.

    own: this rank's tensors, in order. All have the dtype and device of `like`. Shapes are exchanged first,
    because they may depend on the content.
    """
    shapes = _exchange_shapes(own, max(map(owners.count, owners)), like, group)
    sizes = [[shape.numel() for shape in row] for row in shapes]
    buffer = like.new_empty(max(map(sum, sizes)))
    if own:
        flat = packed(own)
        buffer[: len(flat)] = flat
    parts = [part[: sum(row)].split(row) for part, row in zip(all_gather(buffer, group), sizes)]
    tensors = [iter([x.view(shape) for x, shape in zip(*pair)]) for pair in zip(parts, shapes)]
    return [next(tensors[owner]) for owner in owners]


def _exchange_shapes(
    own: Sequence[Tensor], most: int, like: Tensor, group: dist.ProcessGroup
) -> list[list[torch.Size]]:
    """The shapes of each rank's own tensors. most: their maximum number per rank."""
    table = torch.zeros(most, 1 + MAX_DIMS, dtype=torch.int64)
    for row, x in zip(table, own):
        row[: 1 + x.ndim] = torch.tensor([x.ndim, *x.shape])
    gathered = all_gather(table.to(like.device), group).tolist()
    return [[torch.Size(row[1 : 1 + row[0]]) for row in rows if row[0]] for rows in gathered]
