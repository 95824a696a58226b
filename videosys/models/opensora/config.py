"""User settings of Open-Sora v1.2."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace

from videosys.cache import CacheConfig
from videosys.generation.config import PipelineConfig, cache_field, loading
from videosys.generation.tiling import FrameTilingConfig
from videosys.models.opensora.conditioning import (
    CHUNK_LATENTS,
    Reference,
    joined_length,
    references_from_strategy,
)
from videosys.models.opensora.presets import COEFFICIENTS, PRESETS
from videosys.models.opensora.prompt import inline_references, split_inline, text_of_loop
from videosys.models.opensora.sizes import resolve_num_frames, resolve_size
from videosys.schedulers.rflow import time_shift
from videosys.schedulers.solvers import Training
from videosys.utils.devices import parse_device
from videosys.utils.files import anchored
from videosys.utils.images import BACKGROUND, check_colour
from videosys.utils.typed import MOST_FRAMES, MOST_PIXELS, MOST_STEPS, check_characters, limited

LEAST_SIDE = 16  # pixels: one patch of latents
DEFAULT_SIZE = ("480p", "9:16")


@dataclass(frozen=True)
class OpenSoraConfig(PipelineConfig, FrameTilingConfig):
    """All user settings, with the fields of PipelineConfig and FrameTilingConfig; the defaults are
    the published ones.

    transformer, vae, text_encoder: local folders or hub ids.
    vae_micro_batch_size: frames per batch of the VAE, affects only memory; null is 4, with offload `group` 1.
    prompt_references: read the images and videos that are named in the published JSON at the end of prompts,
        {"reference_path": "a.png;b.mp4", "mask_strategy": "0"}. Authors of prompts can then read any
        file of this computer; false removes the JSON with a warning.

    The other fields can be overridden by each request:
    enable_vae_slicing: decode the videos of a batch one after the other; affects only memory.
    resolution, aspect_ratio: names, 480p and 9:16 (HEIGHT:WIDTH, or HEIGHT / WIDTH as a
        number) if null; or give height and width in pixels.
    num_frames: 1, 17 and more, or a name such as 2s. fps: of the file, and a condition of the model.
    aes, flow, camera_motion: scores and words appended to the prompt; null omits them.
    negative_prompt: what the video should not show; null is the model's own unconditional caption, as
        published. Scores are not appended to it.
    reference_paths, mask_strategy: images or videos to contain, and where, as published ("0,0,0,0,1,0").
    reference_background: the colour of their transparent parts: white, black, #7f7f7f.
    loops: consecutive clips: each begins with the last condition_frame_length latent frames of
        the previous one, edited with strength condition_frame_edit.
    align: conditions start at multiples of this; null allows any start.
    """

    transformer: str = loading("hpcai-tech/OpenSora-STDiT-v3")
    vae: str = loading("hpcai-tech/OpenSora-VAE-v1.2")
    text_encoder: str = loading("DeepFloyd/t5-v1_1-xxl")
    vae_micro_batch_size: int | None = loading(None, most=MOST_FRAMES)
    prompt_references: bool = loading(False)  # not about weights, but requests must not change it

    enable_vae_slicing: bool = False
    resolution: str | None = None
    aspect_ratio: str | float | None = None
    height: int | None = limited(None, most=MOST_PIXELS)
    width: int | None = limited(None, most=MOST_PIXELS)
    num_frames: int | str = limited("2s", most=MOST_FRAMES)
    num_inference_steps: int = limited(30, most=MOST_STEPS, aliases=("num_sampling_steps",))
    guidance_scale: float = field(default=7.0, metadata={"aliases": ("cfg_scale",)})
    aes: float | None = 6.5
    flow: float | None = None
    camera_motion: str | None = None
    negative_prompt: str | None = None
    reference_paths: tuple[str, ...] = field(default=(), metadata={"local": True})
    mask_strategy: str = ""
    reference_background: str = BACKGROUND
    loops: int = limited(1, most=1000)
    condition_frame_length: int = limited(CHUNK_LATENTS, most=MOST_FRAMES)
    condition_frame_edit: float = 0.0
    align: int | None = CHUNK_LATENTS
    cache: CacheConfig = cache_field(PRESETS)

    examples = "opensora"
    prediction = "flow"
    takes_negative = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_characters("negative_prompt", self.negative_prompt or "")
        self._check_numbers()
        self._check_size()
        self.output_frames  # noqa: B018 (raises if frames and loops do not fit)
        if self.mask_strategy and not self.reference_paths:
            raise ValueError(f"mask_strategy is {self.mask_strategy!r}, but there are no reference_paths")
        self.references  # noqa: B018 (raises for an invalid strategy)

    def _check_numbers(self) -> None:
        self.check_counts("vae_micro_batch_size")
        self.frame_tiling()
        check_colour(self.reference_background)
        if not 0 <= self.condition_frame_edit <= 1:
            raise ValueError(
                f"condition_frame_edit is {self.condition_frame_edit}; it must be between 0 and 1"
            )
        if self.condition_frame_length < CHUNK_LATENTS:
            raise ValueError(
                f"condition_frame_length is {self.condition_frame_length}; it must be {CHUNK_LATENTS} or more"
            )
        if self.align is not None and self.align < 1:
            raise ValueError(f"align is {self.align}; it must be 1 or more, or null for none")

    def _check_size(self) -> None:
        if (self.height is None) != (self.width is None):
            raise ValueError(f"height is {self.height} and width is {self.width}; set both or neither")
        if self.height is not None and (self.resolution, self.aspect_ratio) != (None, None):
            raise ValueError(
                f"height and width cannot be combined with resolution {self.resolution!r} and aspect_ratio "
                f"{self.aspect_ratio!r}; set height and width to null to use a name"
            )
        if min(self.size) < LEAST_SIDE:
            raise ValueError(
                f"the video would be {self.size[0]} x {self.size[1]}; the minimum is {LEAST_SIDE} pixels"
            )

    @property
    def frames_at_once(self) -> int:
        """Frames per batch of the autoencoder: one on an accelerator with group offloading,
        where the autoencoder would otherwise need the most memory.
        """
        is_largest = self.offload == "group" and parse_device(self.device).type != "cpu"
        return self.vae_micro_batch_size or (1 if is_largest else 4)

    @property
    def model_name(self) -> str:
        return "opensora"

    @property
    def scheduler_name(self) -> str:
        return "rflow"

    @property
    def training(self) -> Training:
        return Training("flow", shift=float(time_shift(self.clip_frames, *self.size)))

    @property
    def steps(self) -> int:
        return self.num_inference_steps

    @property
    def teacache_coefficients(self) -> tuple[float, ...]:
        return COEFFICIENTS

    @property
    def decode_batch_size(self) -> int:
        return 1 if self.enable_vae_slicing else self.batch_size

    @property
    def num_clips(self) -> int:
        return self.loops

    @property
    def negative_text(self) -> str | None:
        return self.negative_prompt

    def prompt_texts(self, prompt: str) -> list[str]:
        words, _ = split_inline(prompt)
        return [text_of_loop(words, loop) for loop in range(self.loops)]

    def prompt_conditions(self, prompt: str) -> list[Reference]:
        """The references named in a prompt, if allowed. ValueError for unreadable JSON."""
        if not self.prompt_references or not split_inline(prompt)[1]:
            return []
        given = inline_references(prompt)
        return references_from_strategy(given.mask_strategy or "0", given.paths)

    def clean(self, text: str) -> str:
        from videosys.text_encoders.cleaning import prepare_prompt

        return prepare_prompt(text, self.aes, self.flow, self.camera_motion)

    def clean_negative(self, text: str) -> str:
        from videosys.text_encoders.cleaning import prepare_prompt

        return prepare_prompt(text, None)

    def anchored(self) -> OpenSoraConfig:
        paths = tuple(map(anchored, self.reference_paths))
        return replace(super().anchored(), reference_paths=paths)

    def check_calibratable(self) -> None:
        if self.loops != 1 or self.references:
            raise ValueError("loops and references cannot be calibrated; remove them from the config")

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """The requested (height, width) in pixels; the video rounds them down to multiples of 8."""
        if self.height is not None and self.width is not None:
            return self.height, self.width
        return resolve_size(self.resolution or DEFAULT_SIZE[0], self.aspect_ratio or DEFAULT_SIZE[1])

    @property
    def clip_frames(self) -> int:
        """Frames of one clip."""
        return resolve_num_frames(self.num_frames)

    @property
    def output_frames(self) -> int:
        """Frames of the video, all loops joined."""
        return joined_length(self.clip_frames, self.loops, self.condition_frame_length)

    @property
    def model_fps(self) -> float:
        """The frame rate for the model; a single image was trained as 120."""
        return 120.0 if self.clip_frames == 1 else self.fps

    @property
    def references(self) -> list[Reference]:
        """The conditions of the config; without a strategy, the first path is the first frame."""
        strategy = self.mask_strategy or ("0" if self.reference_paths else "")
        return references_from_strategy(strategy, self.reference_paths)
