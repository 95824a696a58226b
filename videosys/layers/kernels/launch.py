"""The operators of this folder: convert tensors to the layout of their kernels and launch them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from videosys.layers.kernels import frames, norms, rotation, tiles


def attend_frames(
    q: Tensor, k: Tensor, v: Tensor, weights: Sequence[Tensor], table: Sequence[Tensor], eps: float
) -> Tensor:
    parts = (q, k, v)
    if not has_side_by_side_heads(q) or len({part.stride() for part in parts}) > 1:
        parts = tuple(part.contiguous() for part in parts)  # type: ignore[assignment]
    return frames.attend_frames(parts, pair_or_none(weights), pair_or_none(table), eps)


def attend_tiles(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    q, k, v = (part if has_whole_steps(part) else part.contiguous() for part in (q, k, v))
    return tiles.attend_tiles(q, k, v, None if bias is None else bias.contiguous())


def norm_rotate(
    q: Tensor, k: Tensor, weights: Sequence[Tensor], table: Sequence[Tensor], eps: float, group: int
) -> tuple[Tensor, Tensor]:
    shape = q.shape
    parts = [part.flatten(0, -3) for part in (q, k)]
    first, second = (part if has_side_by_side_heads(part) else part.contiguous() for part in parts)
    made = rotation.norm_rotate((first, second), pair_or_none(weights), pair_or_none(table), eps, group)
    return made[0].view(shape), made[1].view(shape)


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    _, shift, scale = with_equal_strides(None, shift, scale)
    return norms.modulate(x.contiguous(), None, None, (shift, scale), eps)


def add_modulate(
    x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    x, (gate, shift, scale) = x.contiguous(), with_equal_strides(gate, shift, scale)
    total = x.new_empty(x.shape)
    return total, norms.modulate(x, (y.contiguous(), total), gate, (shift, scale), eps)


def pair_or_none(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Contiguous tensors, as the kernels read them; None for none."""
    if not tensors:
        return None
    first, second = (tensor.contiguous() for tensor in tensors)
    return first, second


def has_side_by_side_heads(part: Tensor) -> bool:
    """Whether the heads of a token [..., heads, d] are contiguous."""
    return part.stride(-1) == 1 and part.stride(-2) == part.shape[-1]


def has_whole_steps(part: Tensor) -> bool:
    """Whether the rows of [..., d] are aligned to 16 bytes."""
    *strides, last = part.stride()
    return last == 1 and not any(stride % tiles.STEP.value for stride in strides)


def with_equal_strides(
    gate: Tensor | None, shift: Tensor, scale: Tensor
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Vectors of one stride each in sample, frame and channel: those of `modulation` have it."""
    given = (shift, scale) if gate is None else (gate, shift, scale)
    if shift.stride(-1) != 1 or len({vector.stride() for vector in given}) > 1:
        shift, scale = shift.contiguous(), scale.contiguous()
        gate = None if gate is None else gate.contiguous()
    return gate, shift, scale
