"""User settings of Latte-1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from videosys.cache import CacheConfig
from videosys.generation.choices import with_changes
from videosys.generation.config import NegativePromptConfig, cache_field, loading
from videosys.generation.tiling import FrameTilingConfig
from videosys.models.latte.presets import COEFFICIENTS, PRESETS, REPOSITORY
from videosys.schedulers.build import NOISE
from videosys.schedulers.solvers import Training
from videosys.utils.typed import MOST_FRAMES, MOST_PIXELS, MOST_STEPS, limited

NOISE_SETTINGS = ("beta_start", "beta_end", "beta_schedule")


@dataclass(frozen=True)
class LatteConfig(NegativePromptConfig, FrameTilingConfig):
    """All user settings, with the fields of NegativePromptConfig and FrameTilingConfig; the defaults
    are the published ones.

    transformer, vae, text_encoder: hub ids or local folders, of the part itself or of all parts in
        `transformer`, `vae` and `vae_temporal_decoder`, `text_encoder` and `tokenizer`.
    enable_vae_temporal_decoder: decode frames together; false decodes each frame alone.
    decode_chunk_size: number of frames together; fewer need less memory, but flicker between chunks.

    The other fields can be overridden by each request:
    mask_feature: cut prompts to their tokens; false includes their padding.
    enable_temporal_attentions: false makes the frames independent images.
    beta_start, beta_end, beta_schedule, eta: of the DDIM sampler; eta is the share of new noise per step.
    """

    transformer: str = loading(REPOSITORY)
    vae: str = loading(REPOSITORY)
    text_encoder: str = loading(REPOSITORY)
    enable_vae_temporal_decoder: bool = loading(True)
    decode_chunk_size: int = loading(14, most=MOST_FRAMES)
    fps: float = loading(8.0)

    num_frames: int = limited(16, most=MOST_FRAMES)
    height: int = limited(512, most=MOST_PIXELS)
    width: int = limited(512, most=MOST_PIXELS)
    num_inference_steps: int = limited(50, most=MOST_STEPS)
    negative_prompt: str = ""
    mask_feature: bool = True
    enable_temporal_attentions: bool = True
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    eta: float = 0.0
    cache: CacheConfig = cache_field(PRESETS)

    examples = "latte"
    prediction = "epsilon"
    size_multiple = 16  # a patch of two latents, of eight pixels each

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_counts("decode_chunk_size")
        self.frame_tiling()
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"beta_start is {self.beta_start} and beta_end {self.beta_end}; they must be above 0, below "
                "1, and in this order"
            )
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}; it must be between 0 and 1")
        if self.eta and not self.uses_published_scheduler:
            raise ValueError(f"eta is {self.eta}; only the published scheduler has one")

    @property
    def model_name(self) -> str:
        return with_changes("latte", self, "enable_temporal_attentions")

    @property
    def scheduler_name(self) -> str:
        return with_changes("ddim", self, *NOISE_SETTINGS, "eta")

    @property
    def training(self) -> Training:
        return Training("epsilon", {**NOISE, **{key: getattr(self, key) for key in NOISE_SETTINGS}})

    def reads_padding(self, text: str) -> bool:
        return not self.mask_feature or super().reads_padding(text)

    @property
    def teacache_coefficients(self) -> tuple[float, ...]:
        return COEFFICIENTS
