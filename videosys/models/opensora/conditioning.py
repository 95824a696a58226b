"""Images and videos as conditions of a generation: which latent frames are given, and their strength.

Open-Sora works on latent frames: 5 of them are one chunk of 17 video frames. A condition copies latent frames
of a reference into the clip and marks them in a frame mask: 1 is denoised freely, 0 is kept unchanged, and a
value between is denoised only from that noise level on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from videosys.utils.files import anchored
from videosys.utils.logging import get_logger

CHUNK_LATENTS, CHUNK_FRAMES = 5, 17

T = TypeVar("T")
Source = str | Path | Tensor

_LOG = get_logger("conditioning")


class FrameCondition(NamedTuple):
    """Latent frames `start` to `start + length` of reference number `reference`, put at `target` in one loop.

    A negative start or target counts from the end. strength: 0 keeps the frames exactly, 1 frees them.
    """

    loop: int = 0
    reference: int = 0
    start: int = 0
    target: int = 0
    length: int = 1
    strength: float = 0.0

    def check(self) -> FrameCondition:
        """Return this; ValueError for values that are invalid for any clip and reference."""
        least = {"loop": 0, "reference": 0, "length": 1}
        for name, value in list(self._asdict().items())[:5]:
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{name} must be a whole number, not {value!r}")
            if value < least.get(name, value):
                raise ValueError(f"{name} must be at least {least[name]}, not {value}")
        if not isinstance(self.strength, (int, float)) or not 0 <= self.strength <= 1:
            raise ValueError(f"strength must be between 0 (keep) and 1 (free), not {self.strength!r}")
        return self


@dataclass(frozen=True, eq=False)
class Reference:
    """An image or video to include in a clip.

    source: path of an image or video, or its frames as uint8 [T, H, W, 3].
    start, target, length: latent frames (5 are 17 video frames): from `start` of the reference on, `length`
        of them are put at `target` in the clip. A negative start or target counts from the end.
    strength: 0 keeps the frames exactly, 1 generates them freely, values in between edit them.
    loop: the loop that this applies to, 0 for the first or only clip.

    `Reference("cat.png")` makes the image the first frame. ValueError for an invalid value.
    """

    source: Source
    start: int = 0
    target: int = 0
    length: int = 1
    strength: float = 0.0
    loop: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.source, (str, Path, Tensor)):
            raise ValueError(f"source must be a path or frames, not {self.source!r}")
        if not isinstance(self.source, Tensor):
            object.__setattr__(self, "source", type(self.source)(anchored(str(self.source))))
        self.as_condition(0).check()

    def as_condition(self, reference: int) -> FrameCondition:
        """The condition for the reference with this number, from 0; not checked against a clip."""
        return FrameCondition(self.loop, reference, self.start, self.target, self.length, self.strength)


def parse_mask_strategy(strategy: str) -> list[FrameCondition]:
    """Return the conditions of a published mask strategy: "0,1,-5,0,5,0.3; ...", "" for none.

    The numbers are loop, reference, start, target, length and strength; the defaults are 0,0,0,0,1,0.
    """
    return [parse_condition(text) for text in strategy.split(";") if strategy.strip()]


def parse_condition(text: str) -> FrameCondition:
    """The condition of an entry of a published mask strategy, such as 0,0,0,0,1,0; else ValueError."""
    fields = text.split(",")
    names = FrameCondition._fields
    if len(fields) > len(names):
        raise ValueError(f"mask strategy {text!r} has more than the numbers {', '.join(names)}")
    try:
        condition = FrameCondition(*map(int, fields[:5]), *map(float, fields[5:]))
    except ValueError:
        raise ValueError(f"mask strategy {text!r} is not five whole numbers and a strength") from None
    return condition.check()


def references_from_strategy(strategy: str, sources: Sequence[Source]) -> list[Reference]:
    """Return a published mask strategy as references to the given images and videos."""
    conditions = [condition._asdict() for condition in parse_mask_strategy(strategy)]
    return [Reference(pick(sources, values.pop("reference")), **values) for values in conditions]


def pick(references: Sequence[T], number: int) -> T:
    """The reference of this number; ValueError if it does not exist."""
    if number >= len(references):
        raise ValueError(f"reference {number} does not exist: {len(references)} are given, counted from 0")
    return references[number]


def collect_sources(references: Sequence[Reference]) -> tuple[list[Source], list[FrameCondition]]:
    """Return each source once, and the conditions that refer to them by number."""
    numbers: dict[object, int] = {}
    sources: list[Source] = []
    conditions = []
    for reference in references:
        if not isinstance(reference, Reference):
            raise ValueError(f"each of references must be a videosys.Reference, not {reference!r}")
        source = reference.source
        # Tensors are compared by identity, paths by their text.
        number = numbers.setdefault(id(source) if isinstance(source, Tensor) else str(source), len(sources))
        if number == len(sources):
            sources.append(source)
        conditions.append(reference.as_condition(number))
    return sources, conditions


def nearest_point(value: int, point: int, end: int) -> int:
    """Return the nearest multiple of `point` from 0 to below `end`; of two equally near ones, the lower."""
    nearest = (value + (point - 1) // 2) // point
    return max(0, min(nearest, (end - 1) // point)) * point


def from_start(value: int, end: int) -> int:
    """Return a non-negative position: negative ones count from the end."""
    return value + end if value < 0 else value


def locate(condition: FrameCondition, name: str, end: int, align: int | None) -> int:
    """Return the position in its field `name` of a condition among `end` frames, a multiple of `align`.

    A multiple of 5 starts a chunk of the VAE; the meaning of a latent frame depends on its place in a chunk.
    """
    value, length = getattr(condition, name), condition.length
    start = from_start(value, end)
    snapped = nearest_point(start, align, end) if align else start
    if not 0 <= start < end or snapped + length > end:
        raise ValueError(f"{name} {value} and length {length} exceed the {end} latent frames")
    if start != snapped:
        _LOG.warning(
            "%s %d does not start a chunk of %d latent frames; using %d", name, value, align, snapped
        )
    return snapped


def check_aligned(condition: FrameCondition, reference_end: int, clip_end: int, align: int | None) -> None:
    """ValueError if `align` would move a position of the condition, because it does not start a chunk."""
    for name, end in (("start", reference_end), ("target", clip_end)):
        value = getattr(condition, name)
        if align and from_start(value, end) % align:
            raise ValueError(
                f"{name} {value} of a reference does not start a chunk of {align} latent frames; "
                "set align to null (None) to allow it"
            )


def chunks_needed(
    conditions: Sequence[FrameCondition], lengths: Sequence[int], align: int | None, step: int = 1
) -> list[tuple[int, int]]:
    """Return (first, end) of the chunks of each reference that its conditions use.

    lengths: latent frames of each reference. It includes one additional chunk, and the first is a
    multiple of `step`, so that the VAE groups frames as in the whole reference.
    """
    step = math.lcm(step, math.lcm(align or 1, CHUNK_LATENTS) // CHUNK_LATENTS)
    spans = []
    for number, length in enumerate(lengths):
        ours = [condition for condition in conditions if condition.reference == number]
        starts = [start_of(condition, length, align) for condition in ours]
        last = max(start + condition.length for start, condition in zip(starts, ours))
        spans.append((min(starts) // CHUNK_LATENTS // step * step, math.ceil(last / CHUNK_LATENTS) + 1))
    return spans


def start_of(condition: FrameCondition, length: int, align: int | None) -> int:
    """Return the start of a condition's frames in a reference with this number of latent frames."""
    start = from_start(condition.start, length)
    return nearest_point(start, align, length) if align else start


def from_chunks(
    conditions: Sequence[FrameCondition],
    lengths: Sequence[int],
    spans: Sequence[tuple[int, int]],
    align: int | None,
) -> list[FrameCondition]:
    """Return the conditions with positions relative to the first chunk that is read of each reference."""
    return [
        condition._replace(
            start=start_of(condition, lengths[condition.reference], align)
            - spans[condition.reference][0] * CHUNK_LATENTS
        )
        for condition in conditions
    ]


def apply_mask_strategy(
    latents: Tensor,
    references: Sequence[Tensor],
    strategy: str | Sequence[FrameCondition],
    loop: int = 0,
    align: int | None = CHUNK_LATENTS,
) -> tuple[Tensor, Tensor]:
    """Return the latents with this loop's conditions copied in, and the frame mask [B, T] (float32).

    latents: [B, C, T, H, W], or [C, T, H, W] for a mask [T]. references: latents [C, t, H, W], with or
    without a batch. Later conditions overwrite earlier ones. ValueError if a condition names frames or a
    reference that do not exist, or a reference has another size.
    """
    conditions = parse_mask_strategy(strategy) if isinstance(strategy, str) else strategy
    end = latents.shape[-3]
    latents, mask = latents.clone(), torch.ones(*latents.shape[:-4], end, device=latents.device)
    for condition in conditions:
        if condition.loop != loop:
            continue
        reference = pick(references, condition.reference)
        check_size(reference, latents)
        start = locate(condition, "start", reference.shape[-3], align)
        target = locate(condition, "target", end, align)
        if condition.strength < 1:  # with 1, frames start as noise
            frames = reference.narrow(-3, start, condition.length)
            latents.narrow(-3, target, condition.length).copy_(frames)
        mask.narrow(-1, target, condition.length).fill_(condition.strength)
    return latents, mask


def check_size(reference: Tensor, latents: Tensor) -> None:
    """ValueError if a reference [.., C, t, h, w] and latents differ in channels, rows or columns."""
    ours, theirs = ((x.shape[-4], *x.shape[-2:]) for x in (latents, reference))
    if ours != theirs:
        raise ValueError(
            f"a reference has latents of (channels, height, width) {theirs}, the clip has {ours}"
        )


def latent_to_pixel_frames(latent_frames: int) -> int:
    """Return the number of video frames of whole chunks of latent frames: 17 for 5."""
    if latent_frames < 0 or latent_frames % CHUNK_LATENTS:
        raise ValueError(f"{latent_frames} latent frames are not a multiple of {CHUNK_LATENTS}")
    return latent_frames // CHUNK_LATENTS * CHUNK_FRAMES


def joined_length(num_frames: int, loops: int, condition_length: int = CHUNK_LATENTS) -> int:
    """Return the number of frames of `loops` joined clips: each but the first repeats its condition.

    `condition_length` counts latent frames; with its 5, this is num_frames * loops - 17 * (loops - 1).
    """
    if loops < 1:
        raise ValueError(f"loops is {loops}; it must be 1 or more")
    overlap = latent_to_pixel_frames(condition_length)
    if loops > 1 and num_frames <= overlap:
        raise ValueError(f"num_frames is {num_frames}; {loops} loops need more than {overlap} frames")
    return num_frames * loops - overlap * (loops - 1)


def join_clips(clips: Sequence[Tensor], condition_length: int = CHUNK_LATENTS) -> Tensor:
    """Return the clips [T, ...] of all loops as one, without the repeated frames."""
    overlap = latent_to_pixel_frames(condition_length)
    return torch.cat([clips[0], *(clip[overlap:] for clip in clips[1:])])


def continuation(
    loop: int, reference: int, length: int = CHUNK_LATENTS, strength: float = 0.0
) -> FrameCondition:
    """Return the condition that makes a loop begin with the last latent frames of the previous clip."""
    return FrameCondition(loop, reference, start=-length, target=0, length=length, strength=strength)
