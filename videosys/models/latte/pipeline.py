"""Latte-1 (arXiv 2401.03048): prompts to videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch

from videosys.cache import CACHES, CacheConfig, NoCacheConfig, PABConfig, TeaCacheConfig
from videosys.generation import base
from videosys.generation.pipeline import Loader, Pipeline, check_channels
from videosys.generation.text_to_video import Encoded, Text, TextToVideoConfig, TextToVideoPipeline, cut_pair
from videosys.generation.tiles import TiledFrames, field_names
from videosys.models.pixart.latte_t2v import LatteCondition, LatteT2V, LatteT2VConfig
from videosys.parallel import Parallel
from videosys.schedulers import Sampler, ddim
from videosys.utils.checkpoint import read_config

__all__ = ["LatteConfig", "LattePipeline"]

# Published with TeaCache for this model, highest power first.
COEFFICIENTS = (-2.46434137e03, 3.08044764e02, 8.07447667e01, -4.11385132e00, 1.11001402e-01)
# Published with PAB for 50 steps: which blocks reuse their MLP for two steps.
PAB_WINDOW = (100.0, 800.0)
PAB_MLP = tuple((place, 2, (0, 1, 2, 3, 4)) for place in (720.0, 640.0, 560.0, 480.0, 400.0))
LATTE_CACHES = MappingProxyType(
    {
        **CACHES,
        "teacache_slow": TeaCacheConfig(threshold=0.1, coefficients=COEFFICIENTS),
        "teacache_fast": TeaCacheConfig(threshold=0.2, coefficients=COEFFICIENTS),
        "pab": PABConfig.pyramid((2, 3, 6), PAB_WINDOW, PAB_MLP),
        "pab_slow": PABConfig.pyramid((2, 3, 6), PAB_WINDOW, PAB_MLP),
        "pab_fast": PABConfig.pyramid((4, 6, 9), PAB_WINDOW, PAB_MLP),
    }
)
REPOSITORY = "maxin-cn/Latte-1"
MAX_TOKENS = 120


@dataclass(frozen=True)
class LatteConfig(TextToVideoConfig, TiledFrames):
    """Everything a user chooses, with the fields of TiledFrames; the defaults are the published ones.

    transformer, vae, text_encoder: hub ids or local folders, of the part itself or of all parts in
        `transformer`, `vae` and `vae_temporal_decoder`, `text_encoder` and `tokenizer`.
    enable_vae_temporal_decoder: decode frames together; false decodes each frame alone.
    decode_chunk_size: how many frames together; fewer need less memory, and flicker where chunks meet.

    The rest can be given anew with each request:
    mask_feature: cut prompts to their tokens; false shows the model their padding too.
    enable_temporal_attentions: false makes each frame a picture of its own.
    beta_start, beta_end, beta_schedule, eta: of the DDIM sampler; eta is the share of fresh noise per step.
    """

    transformer: str = REPOSITORY
    vae: str = REPOSITORY
    text_encoder: str = REPOSITORY
    enable_vae_temporal_decoder: bool = True
    decode_chunk_size: int = 14

    num_frames: int = 16
    height: int = 512
    width: int = 512
    fps: float = 8.0
    num_inference_steps: int = 50
    negative_prompt: str = ""
    mask_feature: bool = True
    enable_temporal_attentions: bool = True
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    eta: float = 0.0
    cache: CacheConfig = field(default_factory=NoCacheConfig, metadata={"registry": LATTE_CACHES})

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

    @property
    def model_name(self) -> str:
        return _named("latte", self, "enable_temporal_attentions")

    @property
    def reads_prompt_padding(self) -> bool:
        return not self.mask_feature

    @property
    def scheduler_name(self) -> str:
        return _named("ddim", self, "beta_start", "beta_end", "beta_schedule", "eta")

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def output_frames(self) -> int:
        return self.num_frames

    @property
    def steps(self) -> int:
        return self.num_inference_steps

    def settled_cache(self) -> CacheConfig:
        return base.with_coefficients(self.cache, COEFFICIENTS)


def _named(name: str, config: LatteConfig, *keys: str) -> str:
    """The name, with those settings that are not the published ones: what is calibrated with the others
    does not hold for them.
    """
    usual = {item.name: item.default for item in fields(config)}
    changed = {key: getattr(config, key) for key in keys if getattr(config, key) != usual[key]}
    listed = [f"{key}={float(x) if type(x) is int else x}" for key, x in changed.items()]
    return f"{name}({', '.join(listed)})" if listed else name


class LattePipeline(TextToVideoPipeline[LatteT2V]):
    """Prompts to videos with Latte-1."""

    loading_fields = (
        Pipeline.loading_fields
        | {"enable_vae_temporal_decoder", "decode_chunk_size"}
        | field_names(TiledFrames)
    )

    @classmethod
    def from_config(
        cls, config: LatteConfig, quiet: bool = False, parallel: Parallel = Parallel()
    ) -> LattePipeline:
        from videosys.models.latte.autoencoder import LatteVAE, LatteVAEConfig

        loader = Loader(config, quiet, parallel)
        model_folder = loader.find(config.transformer, "transformer")
        vae_name = "vae_temporal_decoder" if config.enable_vae_temporal_decoder else "vae"
        vae_folder = loader.find(config.vae, vae_name)
        model_config = read_config(LatteT2VConfig, model_folder)
        vae_config = replace(
            read_config(LatteVAEConfig, vae_folder), decode_chunk_size=config.decode_chunk_size
        )
        check_decoder(vae_config, config, vae_folder)
        check_channels(model_config, model_folder, vae_config, vae_folder)
        made = cls(
            loader.text_encoder(config.text_encoder, MAX_TOKENS, model_config.caption_channels),
            loader.transformer(LatteT2V, model_config, model_folder),
            loader.model(LatteVAE, vae_config, vae_folder, tiling=config.frame_tiling()),
            model_config,
            vae_config,
            parallel,
        )
        made.check_parallel(config)
        return made

    def sampler(self, config: LatteConfig, sources: Sequence[torch.Generator]) -> Sampler:
        return ddim(
            config.num_inference_steps,
            beta_start=config.beta_start,
            beta_end=config.beta_end,
            beta_schedule=config.beta_schedule,
            eta=config.eta,
            generator=sources,
        )

    def pair(self, prompts: Sequence[Text], negative: Text | None, config: LatteConfig) -> Encoded:
        return cut_pair(prompts, negative, config.mask_feature)

    def prepare(
        self, model: LatteT2V, encoded: Encoded, size: tuple[int, int, int], config: Any
    ) -> LatteCondition:
        embeds, mask = encoded
        temporal = config.enable_temporal_attentions
        return model.prepare(embeds, mask, latent_size=size, enable_temporal_attentions=temporal)


def check_decoder(vae_config: Any, config: LatteConfig, folder: Path) -> None:
    """ValueError where a folder holds the decoder that was not asked for."""
    if vae_config.is_temporal != config.enable_vae_temporal_decoder:
        held = "clips" if vae_config.is_temporal else "single frames"
        raise ValueError(
            f"enable_vae_temporal_decoder is {config.enable_vae_temporal_decoder}, but {folder} holds a "
            f"decoder of {held}"
        )
