"""A request as a list of videos: prompts, seeds, noise and output."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch

from videosys.cache import StepRecord
from videosys.generation.compile import CompileReport
from videosys.utils.seed import generator
from videosys.utils.typed import check_characters, shown

T = TypeVar("T")
C = TypeVar("C", bound=Any)
MOST_VIDEOS = 1_000_000  # maximum number per request
LONGEST_PROMPT = 100_000  # maximum number of characters
Rounding = Literal["nearest", "down"]


@dataclass(frozen=True)
class VideoOutput:
    """Finished videos with the data to reproduce them.

    video: uint8 tensors [T, H, W, 3], or the type of `output_type`. prompts, seeds: one per video; with the
    config they reproduce it, bit for bit on a CPU. steps_per_video: records of the model evaluations of each
    video. compiled: cost of compilation so far in the process that generated them; None without compilation.
    """

    video: list[Any]
    prompts: list[str]
    seeds: list[int]
    steps_per_video: list[list[StepRecord]] = field(repr=False)
    fps: float = 24.0
    compiled: CompileReport | None = None

    @property
    def frames(self) -> list[Any]:
        """Alias of `video` with diffusers' name."""
        return self.video

    @property
    def steps(self) -> list[StepRecord]:
        """The records of the first video's model evaluations."""
        return self.steps_per_video[0]

    def joined(self, other: VideoOutput) -> VideoOutput:
        """The videos of both."""
        return VideoOutput(
            self.video + other.video,
            self.prompts + other.prompts,
            self.seeds + other.seeds,
            self.steps_per_video + other.steps_per_video,
            self.fps,
            other.compiled,
        )


@dataclass(frozen=True)
class VideoJob:
    """One video to generate. index: its index in the request."""

    prompt: str
    seed: int
    index: int = 0


def check_count(prompts: Sequence[object], config: Any) -> None:
    """ValueError for too many videos in a request."""
    count, each = len(prompts), config.num_videos_per_prompt
    if count * each > MOST_VIDEOS:
        raise ValueError(
            f"num_videos_per_prompt is {each} for {count} prompts; the limit is {MOST_VIDEOS} videos"
        )


def with_full_batches(prompts: Sequence[str], config: C) -> C:
    """The config with a batch_size of at most the number of videos, which gives the same result."""
    most = len(prompts) * config.num_videos_per_prompt
    return replace(config, batch_size=most) if config.batch_size > most else config


def make_jobs(prompts: Sequence[str], seed: int, num_videos_per_prompt: int) -> list[VideoJob]:
    """The jobs of a request. Video j of every prompt uses seed + j."""
    count = num_videos_per_prompt
    return [
        VideoJob(prompt, seed + j, i * count + j) for i, prompt in enumerate(prompts) for j in range(count)
    ]


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield `items` in batches of `size`; the last may be shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))


def check_prompts(prompt: str | Sequence[str]) -> list[str]:
    """The prompts as a list. ValueError if it is empty or contains a blank prompt or one that is not text."""
    prompts = list(prompt) if isinstance(prompt, Sequence) and not isinstance(prompt, str) else [prompt]
    if not prompts:
        raise ValueError("no prompt was given: the list is empty")
    for text in prompts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"prompt is {shown(text)}; it must be text and not blank")
        if len(text) > LONGEST_PROMPT:
            raise ValueError(
                f"prompt has {len(text)} characters ({text[:40]!r}...); the limit is {LONGEST_PROMPT}"
            )
        check_characters("prompt", text)
    return prompts


def generators(jobs: Sequence[VideoJob]) -> list[torch.Generator]:
    """One CPU generator per video, with the video's seed."""
    return [generator(job.seed) for job in jobs]


def initial_noise(size: Sequence[int], generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Normal latents [B, *size], float32, each sample from a separate CPU generator, so that they do not
    depend on the device.
    """
    return torch.stack([torch.randn(tuple(size), generator=source) for source in generators])


def checksum(latents: torch.Tensor) -> int:
    """A 32-bit checksum of latents, which identifies a generation."""
    return zlib.crc32(latents.cpu().numpy().tobytes())


def to_uint8(frames: torch.Tensor, rounding: Rounding = "nearest") -> torch.Tensor:
    """Frames [B, 3, T, H, W] in [-1, 1] as uint8 [B, T, H, W, 3], on the same device.

    They are clamped and rounded in float32, half up, or down as in the published code of some models. (In
    bfloat16, as in published code, a quarter of the values would be one too high.)
    """
    values = (frames.float().clamp(-1, 1) + 1) / 2 * 255 + (0.5 if rounding == "nearest" else 0.0)
    return values.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()
