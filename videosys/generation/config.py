"""User settings: of every model, and of models with a negative prompt."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch

from videosys.cache import CACHES, CacheConfig, NoCacheConfig, RunSpec, TeaCacheConfig
from videosys.generation.choices import resolve_choices, with_changes, with_num_gpus
from videosys.generation.compile import Compile
from videosys.generation.lora import Lora, as_loras
from videosys.generation.offload import Offload
from videosys.layers.backends import AttentionBackend, canonical_backend
from videosys.layers.kernels import Kernels
from videosys.layers.storage import StorageDType
from videosys.parallel import ParallelConfig
from videosys.parallel.config import MOST_DEVICES
from videosys.schedulers.solvers import SCHEDULERS, Prediction, PublishedConfig, SchedulerConfig, Training
from videosys.utils.files import anchored
from videosys.utils.foreign import foreign_name
from videosys.utils.installed import configs_folder
from videosys.utils.seed import LARGEST_SEED
from videosys.utils.typed import (
    MOST_FRAMES,
    MOST_PIXELS,
    MOST_STEPS,
    check_characters,
    check_types,
    limited,
    listing,
    suggest,
)

C = TypeVar("C", bound="PipelineConfig")
DType = Literal["auto", "float32", "bfloat16", "float16"]
NAIVE_COEFFICIENTS = (1.0, 0.0)  # identity: distances are not rescaled


def loading(default: Any, **metadata: Any) -> Any:
    """A dataclass field that affects which weights are loaded, or where. A request cannot change it."""
    return field(default=default, metadata={"loading": True, **metadata})


def cache_field(presets: Mapping[str, CacheConfig]) -> Any:
    """The dataclass field `cache` of a config, which accepts all policies and the model's presets by name.

    A preset with the name of a policy sets the policy's defaults for this model. ValueError if it is for
    another policy. A policy with the name of a preset cannot be registered later.
    """
    CACHES.reserve({name: type(preset) for name, preset in presets.items()})
    # Includes policies that are registered later.
    choices = ChainMap(dict(presets), CACHES)  # type: ignore[arg-type]  # read-only
    return field(default_factory=NoCacheConfig, metadata={"registry": choices})


def loading_fields(config_cls: type) -> frozenset[str]:
    """The names of a config's fields that were declared with `loading`."""
    return frozenset(item.name for item in dataclasses.fields(config_cls) if item.metadata.get("loading"))


@dataclass(frozen=True)
class PipelineConfig:
    """The settings of every model. Invalid values are a ValueError at construction.

    transformer, vae, text_encoder: hub ids or local folders of the three parts; None for the published ones.
    revision: of the hub ids. offline: use only downloaded files.
    device: auto (cuda, else mps, else cpu), cpu, cuda, cuda:N, mps (Apple's).
    dtype: of the weights; auto is bfloat16 on an accelerator, else float32.
    storage_dtype: of the weights of transformer and text encoder blocks while not in use. float8_e4m3fn needs
        half the memory of bfloat16 and rounds the weights (converted to `dtype` on use); auto is `dtype`.
    offload: none keeps all parts in memory, stage only the active one. group keeps the blocks of transformer
        and text encoder in host memory and copies each to the device for its forward.
    compile: blocks compiles the transformer's blocks (torch.compile), decoder the autoencoder's decoder, all
        compiles both. Compilation happens in the first steps.
    vae_channels_last: use the channels-last memory format in the autoencoder's convolutions.
    attention: the kernel of softmax attention. auto depends on device and dtype, torch leaves the choice to
        torch, flash_attn is the package of the extra flash-attn, triton is this package's kernel.
    kernels: auto uses this package's Triton kernels on a GPU, in bfloat16 and float16, if triton and a C
        compiler are installed. none uses only torch.
    cuda_graphs: run the parts of a step outside the blocks as CUDA graphs, which reduces launch overhead.
    parallel: how several devices share the work. num_gpus: shorthand for parallel.num_gpus.
    lora: LoRAs of the transformer, each a file, a folder or a hub id, or {path, scale}; see docs/lora.md.
    fps: frames per second of the saved file.

    The other fields can be overridden by each request:
    num_inference_steps: None for the published number.
    scheduler: the published one, or a solver (see docs/schedulers.md).
    num_videos_per_prompt: video j uses seed + j.
    batch_size: number of videos generated together; with 1, videos are independent of each other.
    """

    transformer: str | None = loading(None)
    vae: str | None = loading(None)
    text_encoder: str | None = loading(None)
    revision: str | None = loading(None)
    offline: bool = loading(False)
    device: str = loading("auto")
    dtype: DType = loading("auto")
    storage_dtype: StorageDType = loading("auto")
    offload: Offload = loading("none")
    compile: Compile = loading("none")
    vae_channels_last: bool = loading(False)
    attention: AttentionBackend = loading("auto")
    kernels: Kernels = loading("auto")
    cuda_graphs: bool = loading(False)
    parallel: ParallelConfig = loading(ParallelConfig())
    num_gpus: int | None = loading(None, most=MOST_DEVICES)
    lora: tuple[Lora, ...] = loading((), read=as_loras)
    fps: float = loading(24.0)  # does not affect weights, but `engine.save_video` uses the engine's value

    num_inference_steps: int | None = limited(None, most=MOST_STEPS)
    scheduler: SchedulerConfig = field(default_factory=PublishedConfig, metadata={"registry": SCHEDULERS})
    guidance_scale: float = 7.5
    seed: int | None = None
    num_videos_per_prompt: int = limited(1, most=10_000)
    batch_size: int = limited(1, most=1000)
    cache: CacheConfig = cache_field({})

    prediction: ClassVar[Prediction | None] = (
        None  # prediction type; None allows only the published scheduler
    )
    examples: ClassVar[str] = ""  # folder of its YAML files: in examples/, or an absolute path
    takes_negative: ClassVar[bool] = False  # whether the model supports a negative prompt

    def __new__(cls, *values: Any, **settings: Any) -> PipelineConfig:
        """ValueError for an unknown setting. For names of other libraries, the error has our name."""
        known = [item.name for item in dataclasses.fields(cls) if item.init]
        for name in settings:
            if name not in known:
                hint = foreign_name(name) or suggest(name, known)
                raise ValueError(f"{cls.__name__}: unknown setting {name!r}{hint}; allowed: {listing(known)}")
        return super().__new__(cls)

    @classmethod
    def named_configs(cls) -> dict[str, Path]:
        """The bundled YAML files of the model, by the names for `load_config`, such as "tiny"."""
        paths = sorted((configs_folder() / cls.examples).glob("*.yaml")) if cls.examples else []
        return {path.stem: path for path in paths}

    def check_fields(self) -> None:
        """Replace names of caches and schedulers by their settings. ValueError for a field with a wrong type
        or above its limit. For config classes whose own checks run before those of the base class.
        """
        resolve_choices(self)
        object.__setattr__(self, "lora", as_loras(self.lora))
        check_types(self)

    def __post_init__(self) -> None:
        self.check_fields()
        self.scheduler.check(self.prediction, type(self).__name__)
        object.__setattr__(self, "attention", canonical_backend(self.attention))
        if self.num_gpus is not None:
            object.__setattr__(self, "parallel", with_num_gpus(self.parallel, self.num_gpus))
            object.__setattr__(self, "num_gpus", None)
        last = LARGEST_SEED - self.num_videos_per_prompt + 1
        if self.seed is not None and not 0 <= self.seed <= last:
            raise ValueError(
                f"seed is {self.seed}; it must be a whole number from 0 to {last}, or none for a random one"
            )
        self.check_counts("num_inference_steps", "num_videos_per_prompt", "batch_size")
        if not 0.01 <= self.fps <= 1000:
            raise ValueError(f"fps is {self.fps}; it must be 0.01 or more and at most 1000")
        if not 1 <= self.guidance_scale < math.inf:
            raise ValueError(f"guidance_scale is {self.guidance_scale}; it must be 1 (no guidance) or more")

    def check_counts(self, *names: str) -> None:
        """ValueError for one of these fields below 1."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")

    # Required definitions of a family's config. `Family` rejects a config class without them.

    @property
    def model_name(self) -> str:
        """The model's name in calibration files, with settings that change the model."""
        raise NotImplementedError

    @property
    def scheduler_name(self) -> str:
        """The published scheduler's name in calibration files, with settings that differ from the
        published.
        """
        raise NotImplementedError

    @property
    def steps(self) -> int:
        """Number of scheduler steps."""
        raise NotImplementedError

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the video in pixels."""
        raise NotImplementedError

    @property
    def output_frames(self) -> int:
        """Number of frames of the video."""
        raise NotImplementedError

    # Optional definitions.

    @property
    def training(self) -> Training:
        """The prediction type of the training, for a config class with a `prediction`."""
        if self.prediction is None:
            raise ValueError(f"{type(self).__name__} has no prediction")
        return Training(self.prediction)

    @property
    def uses_published_scheduler(self) -> bool:
        return isinstance(self.scheduler, PublishedConfig)

    @property
    def sampler_name(self) -> str:
        """The name of the configured scheduler in calibration files, with its settings."""
        if self.uses_published_scheduler:
            return self.scheduler_name
        solver = with_changes(self.scheduler.name, self.scheduler)
        return f"{solver} instead of {self.scheduler_name}"

    @property
    def clip_frames(self) -> int:
        """Number of frames that are denoised together. A video may consist of several clips."""
        return self.output_frames

    @property
    def num_clips(self) -> int:
        """Number of clips of one video."""
        return 1

    @property
    def decode_batch_size(self) -> int:
        """Number of videos that the autoencoder decodes together."""
        return 1

    @property
    def is_guided(self) -> bool:
        """Whether each step evaluates the guidance pair."""
        return self.guidance_scale > 1

    @property
    def negative_text(self) -> str | None:
        """The negative prompt for the text encoder; None for a model without one."""
        return None

    def prompt_texts(self, prompt: str) -> list[str]:
        """The texts for the text encoder, one per clip of a prompt."""
        return [prompt]

    def clean(self, text: str) -> str:
        """The text for the tokenizer."""
        return text

    def clean_negative(self, text: str) -> str:
        """The negative prompt for the tokenizer."""
        return self.clean(text)

    def check_negative(self, name: str) -> None:
        """ValueError if the model does not support a negative prompt. name: the field that sets it."""
        if not self.takes_negative:
            raise ValueError(f"{name}: the model of {type(self).__name__} does not support a negative prompt")

    def reads_padding(self, text: str) -> bool:
        """Whether the transformer attends to the padding of a text."""
        return False

    @property
    def teacache_coefficients(self) -> tuple[float, ...] | None:
        """The polynomial published by TeaCache for this model, highest power first."""
        return None

    def with_default_coefficients(self) -> CacheConfig:
        """The cache settings; TeaCache without coefficients gets the published ones. If none are
        published, distances are not rescaled, with a warning.
        """
        if not isinstance(self.cache, TeaCacheConfig):
            return self.cache
        published = self.teacache_coefficients
        if published is None and self.cache.coefficients is None and self.cache.signal == "modulated":
            warnings.warn(
                f"no TeaCache coefficients are published for {self.model_name}: distances are compared with "
                "the threshold without rescaling (coefficients [1, 0])",
                stacklevel=2,
            )
        if self.lora and published is not None and self.cache.coefficients in (None, published):
            warnings.warn(
                f"the TeaCache coefficients are those of {self.model_name} without LoRA; "
                "`python -m videosys.calibration` finds coefficients for this model",
                stacklevel=2,
            )
        return self.cache.with_coefficients(published or NAIVE_COEFFICIENTS)

    def anchored(self: C) -> C:
        """The config with absolute paths, for a program that changes its working directory later."""
        sources = (self.transformer, self.vae, self.text_encoder)
        transformer, vae, text_encoder = (source and anchored(source) for source in sources)
        lora = tuple(item.anchored() for item in self.lora)
        return replace(self, transformer=transformer, vae=vae, text_encoder=text_encoder, lora=lora)

    def check_calibratable(self) -> None:
        """ValueError if a calibration cannot run this config."""

    def scope(self, evaluations: int, size: tuple[int, int, int], weights_hash: str | None = None) -> RunSpec:
        """The run that calibrated cache settings must match for this config.

        evaluations: of the transformer. size: latent frames, rows and columns.
        """
        return RunSpec(
            model=self.model_name,
            scheduler=self.sampler_name,
            num_inference_steps=self.steps,
            evaluations=evaluations,
            size=size,
            guidance_scale=self.guidance_scale,
            weights_hash=weights_hash,
        )


@dataclass(frozen=True)
class NegativePromptConfig(PipelineConfig):
    """The settings of models with a negative prompt, in addition to those of PipelineConfig.

    num_frames, height, width: of the video, in pixels; None for the training size of the checkpoint.
    negative_prompt: text that the video should not match; None for the published one.
    clean_caption: true cleans prompts twice, as in training; false only lower-cases and strips them.
    """

    num_frames: int | None = limited(None, most=MOST_FRAMES)
    height: int | None = limited(None, most=MOST_PIXELS)
    width: int | None = limited(None, most=MOST_PIXELS)
    negative_prompt: str | None = None
    clean_caption: bool = True

    takes_negative = True
    size_multiple: ClassVar[int] = 1  # of height and width in pixels
    steps_range: ClassVar[tuple[int, int]] = (1, 1000)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("num_frames", "height", "width")
        check_characters("negative_prompt", self.negative_prompt or "")
        height, width = self.size
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"the video would be {height} x {width}; height and width must be multiples of "
                f"{self.size_multiple}"
            )
        least, most = self.steps_range
        if not least <= self.steps <= most:
            raise ValueError(f"num_inference_steps is {self.steps}; it must be {least} to {most}")

    @property
    def steps(self) -> int:
        return self._value("num_inference_steps")

    @property
    def size(self) -> tuple[int, int]:
        return self._value("height"), self._value("width")

    @property
    def output_frames(self) -> int:
        return self._value("num_frames")

    def _value(self, name: str) -> int:
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"{name} is missing")
        return value

    @property
    def negative_text(self) -> str | None:
        return self.negative_prompt or ""

    keeps_chinese: ClassVar[bool] = False

    def clean(self, text: str) -> str:
        from videosys.text_encoders.cleaning import clean_prompt

        return clean_prompt(text, self.clean_caption, self.keeps_chinese)

    def reads_padding(self, text: str) -> bool:
        return self.is_guided and text == self.negative_text


def resolve_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on an accelerator, where it is fast, and float32 on a CPU."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return getattr(torch, dtype)
