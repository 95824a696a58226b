"""The pipeline of Latte-1 (arXiv 2401.03048)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from videosys.generation.guidance import Pair, PromptEmbeds, cut_pair
from videosys.generation.parts import Part, PartFinder, Parts, config_of
from videosys.generation.pipeline import Pipeline
from videosys.models.latte.autoencoder import IMAGES, TEMPORAL, LatteVAE, LatteVAEConfig
from videosys.models.latte.config import LatteConfig
from videosys.models.latte.presets import MAX_TOKENS
from videosys.models.pixart.latte_t2v import LatteCondition, LatteT2V, LatteT2VConfig
from videosys.schedulers import Sampler, ddim
from videosys.utils.logging import get_logger

_LOG = get_logger("latte")


def parts(config: LatteConfig, finder: PartFinder) -> Parts:
    """The parts of a checkpoint. ValueError if a folder has the wrong decoder."""
    transformer = finder.part("transformer", config.transformer, LatteT2V, LatteT2VConfig(), "transformer")
    is_temporal = config.enable_vae_temporal_decoder
    vae_folder = finder.folder("vae", config.vae, "vae_temporal_decoder" if is_temporal else "vae")
    published = LatteVAEConfig(_class_name=TEMPORAL if is_temporal else IMAGES)
    vae_config = config_of(LatteVAEConfig, vae_folder, published)
    check_decoder(vae_config, config, vae_folder)
    vae_config = replace(vae_config, decode_chunk_size=config.decode_chunk_size)
    return Parts(
        transformer=transformer,
        vae=Part(LatteVAE, vae_config, vae_folder, {"tiling": config.frame_tiling()}),
        text_encoder=finder.text_encoder(config.text_encoder, MAX_TOKENS),
    )


def check_decoder(vae_config: LatteVAEConfig, config: LatteConfig, folder: Path | None) -> None:
    """ValueError if a folder has the wrong decoder."""
    if vae_config.is_temporal != config.enable_vae_temporal_decoder:
        held = "clips" if vae_config.is_temporal else "single frames"
        raise ValueError(
            f"enable_vae_temporal_decoder is {config.enable_vae_temporal_decoder}, but {folder} holds a "
            f"decoder of {held}"
        )


def scheduler(config: LatteConfig, generators: Sequence[torch.Generator]) -> Sampler:
    """DDIM with the config's noise schedule."""
    return ddim(
        config.steps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.beta_schedule,
        eta=config.eta,
        generator=generators,
    )


def guidance_pair(
    model: LatteT2V, prompts: Sequence[PromptEmbeds], negative: PromptEmbeds | None, config: LatteConfig
) -> Pair:
    """Prompts and negative prompt, cut to the longest prompt unless the model uses padding."""
    return cut_pair(prompts, negative, config.mask_feature)


def condition(
    model: LatteT2V,
    prompt_embeds: torch.Tensor,
    prompt_mask: torch.Tensor | None,
    latent_size: tuple[int, int, int],
    config: LatteConfig,
) -> LatteCondition:
    """The transformer's condition."""
    return model.prepare(
        prompt_embeds,
        prompt_mask,
        latent_size=latent_size,
        enable_temporal_attentions=config.enable_temporal_attentions,
    )


class LattePipeline(Pipeline):
    """Generates videos with Latte-1."""

    def check_request(self, prompts: Sequence[str], config: Any) -> None:
        super().check_request(prompts, config)
        if config.output_frames == 1 and config.enable_vae_temporal_decoder:
            _LOG.warning("num_frames is 1; the published setting is enable_vae_temporal_decoder=false")
