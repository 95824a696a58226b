"""Attention along one axis of a clip's tokens [B, T, S, C], also if the tokens of a frame are sharded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from einops import rearrange
from torch import Tensor

from videosys.layers.backends import takes_frames
from videosys.parallel import Parallel

Attend = Callable[[Tensor], Tensor]


def spatial_attention(attend: Attend, x: Tensor, parallel: Parallel, tokens_per_frame: int) -> Tensor:
    """`attend` applied to the tokens of each frame: it gets rows [(b t), S, C].

    Sharded tokens are exchanged for frames, and back afterwards, so that `attend` gets complete rows.
    """
    batch, num_frames = x.shape[:2]
    rows = rearrange(x, "b t s c -> (b t) s c")
    rows = parallel.swap(rows, gather=1, scatter=0, size=tokens_per_frame)
    rows = attend(rows) if len(rows) else rows  # with few frames a rank may have none, but it must take part
    rows = parallel.swap(rows, gather=0, scatter=1, size=batch * num_frames)
    return rearrange(rows, "(b t) s c -> b t s c", b=batch)


def temporal_attention(layer: Callable[..., Tensor], x: Tensor, *inputs: Any) -> Tensor:
    """Apply a layer to the frames at each position: it gets [batch, T, ..., C], with independent dims
    in between, and the other inputs. No communication.
    """
    if reads_strided(x) or takes_frames(layer, x):
        return layer(x, *inputs)
    rows = layer(rearrange(x, "b t s c -> (b s) t c"), *inputs)
    return rearrange(rows, "(b s) t c -> b t s c", b=x.shape[0])


def reads_strided(x: Tensor) -> bool:
    """Whether strided tokens are fine: GPUs prefer contiguous ones, and limit the number of heads."""
    return x.device.type == "cpu"
