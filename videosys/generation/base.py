"""What all pipelines share: choices, the output, devices and dtypes, seeds, and frames as bytes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import torch

from videosys.cache import CacheConfig, NoCacheConfig, Scope, StepRecord, TeaCacheConfig
from videosys.generation.compile import Compile, CompileReport
from videosys.generation.offload import Offload
from videosys.layers.backends import AttentionBackend
from videosys.layers.storage import StorageDType
from videosys.parallel import ParallelConfig
from videosys.utils.seed import LARGEST_SEED, generator
from videosys.utils.typed import check_types

T = TypeVar("T")
DType = Literal["auto", "float32", "bfloat16", "float16"]
Rounding = Literal["nearest", "down"]


@dataclass(frozen=True)
class PipelineConfig:
    """The choices that every model has. Bad values are a ValueError at once.

    revision: of the hub ids. offline: take only what was downloaded before.
    device: auto, cpu, cuda, cuda:N. dtype: of the weights; auto is bfloat16 on an accelerator, else float32.
    storage_dtype: of the weights of the blocks of transformer and text encoder while they wait: float8_e4m3fn
        takes half of bfloat16 and rounds them (they are made `dtype` again when used); auto is `dtype`.
    offload: none keeps all parts in memory, stage only the one at work; group leaves the blocks of
        transformer and text encoder in the host's memory, from where each comes for its own work.
    compile: blocks lets the transformer's blocks run compiled (torch.compile) from the first steps on.
    attention: the kernel of softmax attention; auto takes what suits device and dtype, torch what torch
        chooses, flash_attn the package of the extra flash-attn.
    parallel: how several devices share the work. num_gpus: short for parallel.num_gpus, where it is kept.

    The rest can be given anew with each request:
    fps: of the file. num_inference_steps: None for the number published for the model.
    num_videos_per_prompt: video j uses seed + j.
    batch_size: videos made together; at 1 no video depends on another.
    """

    revision: str | None = None
    offline: bool = False
    device: str = "auto"
    dtype: DType = "auto"
    storage_dtype: StorageDType = "auto"
    offload: Offload = "none"
    compile: Compile = "none"
    attention: AttentionBackend = "auto"
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    num_gpus: int | None = None

    fps: float = 24.0
    num_inference_steps: int | None = None
    guidance_scale: float = 7.5
    seed: int | None = None
    num_videos_per_prompt: int = 1
    batch_size: int = 1
    cache: CacheConfig = field(default_factory=NoCacheConfig)

    def __post_init__(self) -> None:
        check_types(self)
        if self.num_gpus is not None:
            object.__setattr__(self, "parallel", with_num_gpus(self.parallel, self.num_gpus))
            object.__setattr__(self, "num_gpus", None)
        check_seed(self.seed, self.num_videos_per_prompt)
        self.check_counts("num_inference_steps", "num_videos_per_prompt", "batch_size")
        if not 0 < self.fps <= 1000:
            raise ValueError(f"fps is {self.fps}; it must be above 0 and at most 1000")
        if not 1 <= self.guidance_scale < math.inf:
            raise ValueError(f"guidance_scale is {self.guidance_scale}; it must be 1 (no guidance) or more")

    def check_counts(self, *names: str) -> None:
        """ValueError for a field of these that is below 1."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")

    def check_calibratable(self) -> None:
        """ValueError where a prompt takes more than one plain denoise loop, all that a calibration runs."""

    @property
    def is_guided(self) -> bool:
        return self.guidance_scale > 1

    @property
    def model_name(self) -> str:
        """What calibration files call the model."""
        raise NotImplementedError

    @property
    def scheduler_name(self) -> str:
        """What they call its sampler."""
        raise NotImplementedError

    @property
    def steps(self) -> int:
        """Steps of the sampler."""
        raise NotImplementedError

    def settled_cache(self) -> CacheConfig:
        """The settings of the cache, with the model's own where they are left open."""
        raise NotImplementedError

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the video in pixels."""
        raise NotImplementedError

    @property
    def output_frames(self) -> int:
        """Frames of the video."""
        raise NotImplementedError


@dataclass(frozen=True)
class VideoOutput:
    """Finished videos, with what made them.

    video: uint8 [T, H, W, 3] each. prompts and seeds: one per video; with the config they reproduce it, bit
    for bit on a CPU. steps_per_video: the model evaluations of each. compiled: what compiling has taken so
    far in the process that made them; None where nothing is compiled.
    """

    video: list[torch.Tensor]
    prompts: list[str]
    seeds: list[int]
    steps_per_video: list[list[StepRecord]] = field(repr=False)
    fps: float = 24.0
    compiled: CompileReport | None = None

    @property
    def steps(self) -> list[StepRecord]:
        """The model evaluations of the first video."""
        return self.steps_per_video[0]

    def joined(self, other: VideoOutput) -> VideoOutput:
        return VideoOutput(
            self.video + other.video,
            self.prompts + other.prompts,
            self.seeds + other.seeds,
            self.steps_per_video + other.steps_per_video,
            self.fps,
            other.compiled,
        )


@dataclass(frozen=True)
class Job:
    """One video to make."""

    prompt: str
    seed: int


def make_jobs(prompts: Sequence[str], seed: int, num_videos_per_prompt: int) -> list[Job]:
    """Video j of every prompt uses seed + j."""
    return [Job(prompt, seed + j) for prompt in prompts for j in range(num_videos_per_prompt)]


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def check_prompts(prompt: str | Sequence[str]) -> list[str]:
    """The prompts as a list; ValueError where there is none, or one is not text or is blank."""
    prompts = list(prompt) if isinstance(prompt, Sequence) and not isinstance(prompt, str) else [prompt]
    if not prompts:
        raise ValueError("no prompt was given: the list is empty")
    for text in prompts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"prompt is {text!r}; it must be text that is not blank")
    return prompts


def check_seed(seed: int | None, num_videos: int = 1) -> None:
    last = LARGEST_SEED - num_videos + 1
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= last):
        raise ValueError(f"seed is {seed!r}; it must be a whole number from 0 to {last}, or none to draw one")


def with_num_gpus(parallel: ParallelConfig, num_gpus: int) -> ParallelConfig:
    """The settings for so many devices; ValueError where they are for another number."""
    if parallel.num_gpus not in (1, num_gpus):
        raise ValueError(f"num_gpus is {num_gpus}, and parallel.num_gpus is {parallel.num_gpus}")
    return replace(parallel, num_gpus=num_gpus)


def scope_of(
    config: PipelineConfig, evaluations: int, size: tuple[int, int, int], weights_hash: str | None = None
) -> Scope:
    """What settings of a cache must have been found on to hold for a config, with so many model evaluations
    and a size of the latents.
    """
    return Scope(
        model=config.model_name,
        scheduler=config.scheduler_name,
        num_inference_steps=config.steps,
        evaluations=evaluations,
        size=size,
        guidance_scale=config.guidance_scale,
        weights_hash=weights_hash,
    )


def parse_device(device: str, name: str = "device") -> torch.device:
    """The device of a name, whether this machine has it or not. `auto` is the first CUDA device, or the CPU
    where there is none. name: of the field, for errors.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = torch.device("meta")
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"{name} is {device!r}; allowed: auto, cpu, cuda, cuda:N")
    return chosen


def resolve_device(device: str, name: str = "device") -> torch.device:
    """The same, of a device that this machine has."""
    chosen = parse_device(device, name)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"{name} is {device!r}, and this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return chosen


def resolve_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on an accelerator, where it is fast, and float32 on a CPU."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]


def with_coefficients(config: CacheConfig, coefficients: tuple[float, ...]) -> CacheConfig:
    """The cache's settings, TeaCache's with a model's published coefficients where none are given."""
    return config.with_coefficients(coefficients) if isinstance(config, TeaCacheConfig) else config


def initial_noise(size: Sequence[int], generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Normal latents [B, *size], float32, each sample from its own CPU generator: the same everywhere."""
    return torch.stack([torch.randn(tuple(size), generator=source) for source in generators])


def generators(jobs: Sequence[Job]) -> list[torch.Generator]:
    return [generator(job.seed) for job in jobs]


def checksum(latents: torch.Tensor) -> int:
    """32 bits that tell one generation from another."""
    return zlib.crc32(latents.cpu().numpy().tobytes())


def to_uint8(frames: torch.Tensor, rounding: Rounding = "nearest") -> torch.Tensor:
    """uint8 [B, T, H, W, 3] on the CPU, as `as_bytes` makes them."""
    return as_bytes(frames, rounding).cpu()


def as_bytes(frames: torch.Tensor, rounding: Rounding = "nearest") -> torch.Tensor:
    """uint8 [B, T, H, W, 3] of frames [B, 3, T, H, W] in [-1, 1]: clamped, and rounded in float32 half up,
    or down as some models' published code does.

    In bfloat16, as published code does it, a quarter of the values comes out one too high.
    """
    values = (frames.float().clamp(-1, 1) + 1) / 2 * 255 + (0.5 if rounding == "nearest" else 0.0)
    return values.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()
