"""The pipelines of Open-Sora-Plan v1.1.0 and v1.2.0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from videosys.generation.guidance import Pair, PromptEmbeds, cut_pair, masked_pair
from videosys.generation.parts import Part, PartFinder, Parts, config_of
from videosys.generation.pipeline import Pipeline, Progress
from videosys.models.open_sora_plan.autoencoder import CausalVAE, CausalVAEConfig
from videosys.models.open_sora_plan.config import OpenSoraPlanConfig
from videosys.models.open_sora_plan.transformer import OpenSoraT2V, OpenSoraT2VConfig
from videosys.models.pixart.latte_t2v import LatteT2V, LatteT2VConfig
from videosys.schedulers import Sampler, euler_ancestral, pndm
from videosys.utils.checkpoint import read_config
from videosys.utils.hub import PATTERNS

NATIVE_VIDEO_LENGTH = 16  # latent frames of v1.1.0 up to which positions are not scaled
WEIGHTS = (*PATTERNS, "*.bin", "*.ckpt")  # the autoencoder of v1.2.0 is a .ckpt file


@dataclass(frozen=True)
class OptionalFields:
    """Fields of a transformer's config.json that may be missing: the trained length is v1.1.0's, and only
    v1.2.0 has rotary positions.
    """

    video_length: int | None = None
    use_rope: bool | None = None


def parts(config: OpenSoraPlanConfig, finder: PartFinder) -> Parts:
    """The parts of a checkpoint. ValueError if a folder has the transformer of the other version."""
    release = config.release
    repository = release.repository
    folder = finder.folder("transformer", config.transformer or repository, config.checkpoint, WEIGHTS)
    vae_folder = finder.folder("vae", config.vae or repository, "vae", WEIGHTS)
    vae_config = config_of(CausalVAEConfig, vae_folder, CausalVAEConfig.published(config.version))
    model_cls = LatteT2V if config.is_v110 else OpenSoraT2V
    return Parts(
        transformer=Part(model_cls, transformer_config(config, folder, vae_config), folder),
        vae=Part(CausalVAE, vae_config, vae_folder, {"tiling": config.tiles()}),
        text_encoder=finder.text_encoder(
            config.text_encoder or release.text_encoder, release.max_tokens, is_mt5=not config.is_v110
        ),
    )


def transformer_config(
    config: OpenSoraPlanConfig, folder: Path | None, vae_config: CausalVAEConfig
) -> LatteT2VConfig | OpenSoraT2VConfig:
    """The transformer's config; if v1.1.0's lacks the number of latent frames of its training, it is
    that of its published videos.
    """
    optional = OptionalFields() if folder is None else read_config(OptionalFields, folder)
    if optional.use_rope is not None and optional.use_rope == config.is_v110:
        held = "v120" if optional.use_rope else "v110"
        raise ValueError(f"version is {config.version!r}, but {folder} holds a transformer of {held!r}")
    if not config.is_v110:
        return config_of(OpenSoraT2VConfig, folder, OpenSoraT2VConfig())
    model_config = config_of(LatteT2VConfig, folder, LatteT2VConfig())
    if optional.video_length is None:
        frames = config.release.types[config.checkpoint]
        model_config = replace(model_config, video_length=vae_config.latent_size(*frames)[0])
    return with_frame_scale(model_config)


def with_frame_scale(model_config: LatteT2VConfig) -> LatteT2VConfig:
    """The config of a v1.1.0 transformer, which divides frame numbers by the whole multiples of 16 in its
    trained length (1 for 65 frames, 3 for 221) unless its file has another value.
    """
    if model_config.interpolation_scale_1d is not None:
        return model_config
    even = model_config.video_length - model_config.video_length % 2
    return replace(model_config, interpolation_scale_1d=float(max(even // NATIVE_VIDEO_LENGTH, 1)))


def scheduler(config: OpenSoraPlanConfig, generators: Sequence[torch.Generator]) -> Sampler:
    """PNDM for v1.1.0, ancestral Euler steps for v1.2.0."""
    return pndm(config.steps) if config.is_v110 else euler_ancestral(config.steps, generator=generators)


def guidance_pair(
    model: Any, prompts: Sequence[PromptEmbeds], negative: PromptEmbeds | None, config: OpenSoraPlanConfig
) -> Pair:
    """Cut to the longest prompt for v1.1.0, with masks for v1.2.0."""
    return cut_pair(prompts, negative) if config.is_v110 else masked_pair(prompts, negative)


def condition(
    model: Any,
    prompt_embeds: torch.Tensor,
    prompt_mask: torch.Tensor | None,
    latent_size: tuple[int, int, int],
    config: OpenSoraPlanConfig,
) -> Any:
    """The transformer's condition; v1.1.0 makes a single image without its temporal blocks, as published."""
    image: dict[str, Any] = {"enable_temporal_attentions": False} if config.is_v110_image else {}
    return model.prepare(prompt_embeds, prompt_mask, latent_size=latent_size, **image)


class OpenSoraPlanPipeline(Pipeline):
    """Generates videos with Open-Sora-Plan."""

    def vae_frames(
        self, vae: Any, latents: torch.Tensor, config: Any, progress: Progress | None = None
    ) -> torch.Tensor:
        return super().vae_frames(vae, latents / vae.config.scaling_factor, config, progress)
