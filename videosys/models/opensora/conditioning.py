"""Images and videos as conditions of a generation: which latent frames are given, and how strictly.

Open-Sora works on latent frames: 5 of them are one chunk of 17 video frames. A condition copies latent frames
of a reference into the clip and marks them in a frame mask: 1 is denoised freely, 0 is kept as it is, and a
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
        """Return this; ValueError for values that no clip and no reference could make possible."""
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
    """An image or video that a clip shall contain.

    source: path of an image or video, or its frames as uint8 [T, H, W, 3].
    start, target, length: latent frames (5 are 17 video frames): from `start` of the reference on, `length`
        of them are put at `target` in the clip. A negative start or target counts from the end.
    strength: 0 keeps the frames exactly, 1 frees them, between they are edited.
    loop: the loop in which this holds, 0 for the first or only clip.

    `Reference("cat.png")` makes the image the first frame. ValueError if a value is impossible.
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
        """The same of the reference with that number, counted from 0; not checked against any clip."""
        return FrameCondition(self.loop, reference, self.start, self.target, self.length, self.strength)


def parse_mask_strategy(strategy: str) -> list[FrameCondition]:
    """Return the conditions of a published mask strategy: "0,1,-5,0,5,0.3; ...", "" for none.

    The numbers are loop, reference, start, target, length and strength; those left out are 0,0,0,0,1,0.
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
    """The reference of that number; ValueError where there is none."""
    if number >= len(references):
        raise ValueError(f"there is no reference {number}: {len(references)} are given, counted from 0")
    return references[number]


def collect_sources(references: Sequence[Reference]) -> tuple[list[Source], list[FrameCondition]]:
    """Return each source once, to be read and encoded once, and the conditions that name them by number."""
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
    """Return the multiple of `point` nearest to `value`, the lower of two, from 0 and below `end`."""
    nearest = (value + (point - 1) // 2) // point
    return max(0, min(nearest, (end - 1) // point)) * point


def from_start(value: int, end: int) -> int:
    """Return a place counted from the start: a negative one counts from the end."""
    return value + end if value < 0 else value


def locate(condition: FrameCondition, name: str, end: int, align: int | None) -> int:
    """Return where the condition's frames begin of `end`, by its field `name`, at a multiple of `align`.

    A multiple of 5 starts a chunk of the VAE, and a latent frame has its meaning by its place in a chunk.
    """
    value, length = getattr(condition, name), condition.length
    start = from_start(value, end)
    snapped = nearest_point(start, align, end) if align else start
    if not 0 <= start < end or snapped + length > end:
        raise ValueError(
            f"{name} {value} and length {length} reach outside the {end} latent frames there are"
        )
    if start != snapped:
        _LOG.warning(
            "%s %d does not start a chunk of %d latent frames: %d is used", name, value, align, snapped
        )
    return snapped


def check_aligned(condition: FrameCondition, reference_end: int, clip_end: int, align: int | None) -> None:
    """ValueError where a place of the condition starts no chunk and `align` would move it."""
    for name, end in (("start", reference_end), ("target", clip_end)):
        value = getattr(condition, name)
        if align and from_start(value, end) % align:
            raise ValueError(
                f"{name} {value} of a reference does not start a chunk of {align} latent frames; "
                "set align to null (None) to put it there all the same"
            )


def chunks_needed(
    conditions: Sequence[FrameCondition], lengths: Sequence[int], align: int | None, step: int = 1
) -> list[tuple[int, int]]:
    """Return (first, end) of the chunks of each reference that its conditions reach into.

    lengths: latent frames of each reference. One chunk more than is needed is in it, and the first is a
    multiple of `step`, so that the VAE takes the frames in the same groups as those of the whole reference.
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
    """Return where a condition's frames begin in a reference of so many latent frames."""
    start = from_start(condition.start, length)
    return nearest_point(start, align, length) if align else start


def from_chunks(
    conditions: Sequence[FrameCondition],
    lengths: Sequence[int],
    spans: Sequence[tuple[int, int]],
    align: int | None,
) -> list[FrameCondition]:
    """Return the conditions as they count from the first chunk that is read of each reference."""
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
        if condition.strength < 1:  # frames that are free from the first step on begin as noise
            frames = reference.narrow(-3, start, condition.length)
            latents.narrow(-3, target, condition.length).copy_(frames)
        mask.narrow(-1, target, condition.length).fill_(condition.strength)
    return latents, mask


def check_size(reference: Tensor, latents: Tensor) -> None:
    """ValueError where a reference [.., C, t, h, w] and latents differ in channels, rows or columns."""
    ours, theirs = ((x.shape[-4], *x.shape[-2:]) for x in (latents, reference))
    if ours != theirs:
        raise ValueError(
            f"a reference has latents of (channels, height, width) {theirs}, the clip has {ours}"
        )


def latent_to_pixel_frames(latent_frames: int) -> int:
    """Return how many video frames whole chunks of latent frames stand for: 5 for 17."""
    if latent_frames < 0 or latent_frames % CHUNK_LATENTS:
        raise ValueError(f"{latent_frames} latent frames are not a multiple of {CHUNK_LATENTS}")
    return latent_frames // CHUNK_LATENTS * CHUNK_FRAMES


def joined_length(num_frames: int, loops: int, condition_length: int = CHUNK_LATENTS) -> int:
    """Return the frames of `loops` clips in one: each but the first repeats what it was conditioned on.

    `condition_length` counts latent frames; with its 5, this is num_frames * loops - 17 * (loops - 1).
    """
    if loops < 1:
        raise ValueError(f"loops is {loops}; it must be 1 or more")
    overlap = latent_to_pixel_frames(condition_length)
    if loops > 1 and num_frames <= overlap:
        raise ValueError(f"num_frames is {num_frames}; {loops} loops need more than the {overlap} they share")
    return num_frames * loops - overlap * (loops - 1)


def join_clips(clips: Sequence[Tensor], condition_length: int = CHUNK_LATENTS) -> Tensor:
    """Return the clips [T, ...] of all loops as one, without the frames that each repeats of the last."""
    overlap = latent_to_pixel_frames(condition_length)
    return torch.cat([clips[0], *(clip[overlap:] for clip in clips[1:])])


def continuation(
    loop: int, reference: int, length: int = CHUNK_LATENTS, strength: float = 0.0
) -> FrameCondition:
    """Return the condition that lets a loop begin with the last latent frames of the clip before it."""
    return FrameCondition(loop, reference, start=-length, target=0, length=length, strength=strength)
